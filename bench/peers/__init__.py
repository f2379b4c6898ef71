"""Other servers, measured beside ours by the same client in the same run."""
