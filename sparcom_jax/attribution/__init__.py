"""How much each unit contributes to the likelihood of the reference responses, by gradients."""
