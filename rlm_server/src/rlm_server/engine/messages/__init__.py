"""The messages between a node and its model: what they say, all there were, and their summary as they fill up."""
