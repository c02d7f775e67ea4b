"""What several tests share: how work is measured, and what was counted."""
