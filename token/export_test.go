package token

// For the fuzz tests.
var (
	ReadMetadata = readMetadata
	JudgeAnswer  = judgeAnswer
)
