"""What several commands share: options, progress, the command as text."""
