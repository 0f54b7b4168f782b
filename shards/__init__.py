"""Programs that turn raw data sets into WebDataset shards and check the result."""
