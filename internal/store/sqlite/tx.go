package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// errFinished: a context that carries a transaction was used after its end.
var errFinished = errors.New("the transaction of this context is over")

// errClosed: the database was closed before its turn came.
var errClosed = errors.New("database: closed")

// writer is the one connection that writes. Whoever holds the token in lock owns
// the rest.
type writer struct {
	lock     chan struct{}
	conn     *sql.Conn
	prepared map[string]*sql.Stmt
	closed   bool
}

func newWriter(conn *sql.Conn) *writer {
	return &writer{lock: make(chan struct{}, 1), conn: conn, prepared: map[string]*sql.Stmt{}}
}

func (w *writer) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if st, ok := w.prepared[query]; ok {
		return st, nil
	}
	st, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	w.prepared[query] = st
	return st, nil
}

func (w *writer) run(ctx context.Context, query string) error {
	st, err := w.stmt(ctx, query)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(ctx)
	return err
}

func (w *writer) close() error {
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	w.closed = true
	// SQLite keeps a connection, and with it the -wal file, for as long as it
	// has statements.
	return errors.Join(closeAll(w.prepared), w.conn.Close())
}

func closeAll(prepared map[string]*sql.Stmt) error {
	var errs []error
	for _, st := range prepared {
		errs = append(errs, st.Close())
	}
	return errors.Join(errs...)
}

// reader is the connections that read beside the writer.
type reader struct {
	db       *sql.DB
	mu       sync.Mutex
	prepared map[string]*sql.Stmt
}

func (r *reader) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if st, ok := r.prepared[query]; ok {
		return st, nil
	}
	// Kept for later callers, so it must not end with this one's context.
	st, err := r.db.PrepareContext(context.WithoutCancel(ctx), query)
	if err != nil {
		return nil, err
	}
	r.prepared[query] = st
	return st, nil
}

func (r *reader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(closeAll(r.prepared), r.db.Close())
}

// tx is a transaction under way. It is used by one goroutine at a time.
type tx struct {
	failed error // of a joined Tx: nothing can be committed any more
	over   bool
	after  []func()
}

type txKey struct{}

func txOf(ctx context.Context) *tx {
	t, _ := ctx.Value(txKey{}).(*tx)
	return t
}

// Tx runs fn in a write transaction; see session.Store. Waiting for the writer
// ends with ctx; once it is there the transaction is finished whatever happens
// to ctx, so that nobody can undo what their request set off by hanging up.
func (s *Store) Tx(ctx context.Context, fn func(ctx context.Context) error) error {
	if t := txOf(ctx); t != nil {
		if t.over {
			return errFinished
		}
		err := fn(ctx)
		if err != nil && t.failed == nil {
			t.failed = err
		}
		return err
	}
	t := &tx{}
	if err := s.transact(ctx, t, fn); err != nil {
		return err
	}
	for _, fn := range t.after {
		fn()
	}
	return nil
}

func (s *Store) transact(ctx context.Context, t *tx, fn func(ctx context.Context) error) (err error) {
	w := s.writer
	select {
	case w.lock <- struct{}{}:
		defer func() { <-w.lock }()
	case <-ctx.Done():
		return fmt.Errorf("database: wait for the writer: %w", ctx.Err())
	}
	if w.closed {
		return errClosed
	}
	ctx = context.WithValue(context.WithoutCancel(ctx), txKey{}, t)
	if err := w.run(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("database: begin: %w", err)
	}
	done := false
	defer func() {
		t.over = true
		if !done { // also when fn panics
			err = errors.Join(err, w.run(ctx, "ROLLBACK"))
		}
	}()
	if err := fn(ctx); err != nil {
		return err
	}
	if t.failed != nil {
		return fmt.Errorf("database: a part of the transaction failed: %w", t.failed)
	}
	if err := w.run(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("database: commit: %w", err)
	}
	done = true
	return nil
}

// AfterCommit runs fn after the outermost transaction in ctx; see session.Store.
func (s *Store) AfterCommit(ctx context.Context, fn func()) {
	if t := txOf(ctx); t != nil {
		t.after = append(t.after, fn)
		return
	}
	fn()
}

// exec changes rows, in ctx's transaction or one of its own, and says how many.
func (s *Store) exec(ctx context.Context, query string, args ...any) (n int, err error) {
	err = s.Tx(ctx, func(ctx context.Context) error {
		st, err := s.writer.stmt(ctx, query)
		if err != nil {
			return err
		}
		res, err := st.ExecContext(ctx, args...)
		if err != nil {
			return err
		}
		rows, err := res.RowsAffected()
		n = int(rows)
		return err
	})
	return n, err
}

// stmt is the query prepared where ctx reads: in its transaction, else on a reader.
func (s *Store) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if t := txOf(ctx); t != nil {
		if t.over {
			return nil, errFinished
		}
		return s.writer.stmt(ctx, query)
	}
	return s.reader.stmt(ctx, query)
}

// scanner is what a row's function reads.
type scanner interface{ Scan(dest ...any) error }

// one reads a single row; sql.ErrNoRows becomes absent.
func one[T any](ctx context.Context, s *Store, absent error, read func(scanner) (T, error), query string, args ...any) (v T, err error) {
	st, err := s.stmt(ctx, query)
	if err != nil {
		return v, fmt.Errorf("database: %w", err)
	}
	v, err = read(st.QueryRowContext(ctx, args...))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return v, absent
	case err != nil:
		return v, fmt.Errorf("database: %w", err)
	}
	return v, nil
}

// many reads all rows.
func many[T any](ctx context.Context, s *Store, read func(scanner) (T, error), query string, args ...any) (vs []T, err error) {
	st, err := s.stmt(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	for rows.Next() {
		v, err := read(rows)
		if err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
		vs = append(vs, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return vs, nil
}
