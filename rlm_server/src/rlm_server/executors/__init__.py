"""Where the code of models runs."""
