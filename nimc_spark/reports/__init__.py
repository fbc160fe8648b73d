"""Static reports and plots."""
