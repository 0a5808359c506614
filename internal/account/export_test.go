package account

// ParsePHC reads a stored hash and writes it again.
func ParsePHC(s string) (string, bool) {
	h, err := parsePHC(s)
	return h.String(), err == nil
}
