"""What a completion may use and has used: tokens, money, calls, and the shares of them that children get."""
