"""What every service measures of itself, how few series that makes, and the port where it is read."""
