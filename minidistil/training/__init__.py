"""Fine-tuning: labeled data, the recipe, the loop, metrics and the model card."""
