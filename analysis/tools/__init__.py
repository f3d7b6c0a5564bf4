"""What several methods share: patches, gradients, places, records."""
