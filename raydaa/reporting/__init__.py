"""What a person looks at when a study is done."""
