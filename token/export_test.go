package token

// ReadMetadata is for the fuzz test.
var ReadMetadata = readMetadata
