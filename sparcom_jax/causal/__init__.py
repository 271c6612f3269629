"""What happens when units are switched off."""
