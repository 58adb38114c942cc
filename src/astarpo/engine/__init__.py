"""In-process batched generation: one KV slot a conversation, kept across its turns."""
