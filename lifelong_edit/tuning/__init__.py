"""Finding the layers and settings that suit a model, by trial edits on a user's own facts, prompts and text."""
