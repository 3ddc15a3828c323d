"""Two-stage training with the Trainer of transformers and DeepSpeed."""
