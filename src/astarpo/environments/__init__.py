"""One file or folder an environment. Text only: nothing here imports torch or a tokenizer."""
