"""The layers models are made of. Each holds its tensors and names them as the checkpoint does."""
