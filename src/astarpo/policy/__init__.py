"""Where text becomes tokens: policies that reply to conversations and score what was said."""
