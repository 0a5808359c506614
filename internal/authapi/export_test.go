package authapi

// AccountProblem is accountProblem, for states that cannot be brought about from
// outside without seconds of hashing.
var AccountProblem = accountProblem
