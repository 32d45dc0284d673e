"""The one place that builds a Lightning Trainer: fitting that resumes, its callbacks and its log."""
