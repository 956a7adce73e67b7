"""The video diffusion model. Knows tensors; reads curated shards through Hugging Face `datasets`."""
