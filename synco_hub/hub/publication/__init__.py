"""What leaves the computer: checked, shown, sent as one commit."""
