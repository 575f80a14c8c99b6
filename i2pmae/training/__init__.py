"""What the training stages share."""
