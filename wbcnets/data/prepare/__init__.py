"""From a published dataset to the files that training reads."""
