package sqlite

import "context"

// Trim is what Write does now and then.
func (s *Store) Trim(ctx context.Context, stranger bool, keep int) error {
	return s.trim(ctx, stranger, keep)
}
