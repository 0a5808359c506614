package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	sqlite3 "modernc.org/sqlite"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

//go:embed migrations/*.sql
var migrations embed.FS

// readers is how many reading connections there are besides the writer.
const readers = 4

// Store is the database. It is safe for concurrent use.
type Store struct {
	writeDB, readDB *sql.DB
	writer          *writer
	reader          *reader
}

var (
	_ session.Store = (*Store)(nil)
	_ account.Store = (*Store)(nil)
	_ login.Store   = (*Store)(nil)
	_ audit.Sink    = (*Store)(nil)
)

// Open opens the database file at path, makes it with mode 0600 where there is
// none, and brings its tables up to date. A file made by a newer version is
// refused.
func Open(ctx context.Context, path string) (*Store, error) { return open(ctx, path, false) }

// OpenExisting is Open where a database must have been before: one that is gone
// or empty is refused, so that a loss does not pass for a first start.
func OpenExisting(ctx context.Context, path string) (*Store, error) { return open(ctx, path, true) }

func open(ctx context.Context, path string, existing bool) (s *Store, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := prepareFile(path); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	s = &Store{}
	defer func() {
		if err != nil {
			_ = s.Close()
			s, err = nil, fmt.Errorf("database %s: %w", path, err)
		}
	}()
	if s.writeDB, err = sql.Open("sqlite", dsn(path)); err != nil {
		return s, err
	}
	s.writeDB.SetMaxOpenConns(1)
	if err = migrate(ctx, s.writeDB, existing); err != nil {
		return s, err
	}
	conn, err := s.writeDB.Conn(ctx)
	if err != nil {
		return s, err
	}
	s.writer = newWriter(conn)
	if s.readDB, err = sql.Open("sqlite", dsn(path, "query_only(1)")); err != nil {
		return s, err
	}
	s.readDB.SetMaxOpenConns(readers)
	s.readDB.SetMaxIdleConns(readers)
	s.reader = &reader{db: s.readDB, prepared: map[string]*sql.Stmt{}}
	return s, s.readDB.PingContext(ctx)
}

// Close waits for the transaction under way and closes the database.
func (s *Store) Close() error {
	var errs []error
	if s.reader != nil {
		errs = append(errs, s.reader.close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.close())
	}
	if s.writeDB != nil {
		errs = append(errs, s.writeDB.Close())
	}
	return errors.Join(errs...)
}

// Ready reports whether the database answers.
func (s *Store) Ready(ctx context.Context) error {
	_, err := s.Sequence(ctx)
	return err
}

func dsn(path string, pragmas ...string) string {
	q := url.Values{"_pragma": append([]string{
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		"trusted_schema(0)", "journal_size_limit(67108864)",
	}, pragmas...)}
	// SQLite decodes the path of a file: URI, so ?, # and % in it are escaped.
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String()
}

// prepareFile makes the file before SQLite does, with a mode that keeps others
// out (SQLite gives its -wal and -shm files the same one), and makes its
// name durable.
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the operator's path
	if errors.Is(err, fs.ErrExist) {
		return os.Chmod(path, 0o600)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func migrate(ctx context.Context, db *sql.DB, existing bool) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the version of the tables: %w", damaged(err))
	}
	switch {
	case have > want:
		return fmt.Errorf("its tables have version %d and this program knows %d: it was used by a newer version; run that one", have, want)
	case have == 0 && existing:
		return errors.New("it is gone or empty")
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bring the tables up to date: %w", err)
	}
	return nil
}

// damaged adds to SQLite's errors about the file what the operator can do.
func damaged(err error) error {
	const corrupt, notADatabase = 11, 26
	var e *sqlite3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case corrupt:
		return fmt.Errorf("the file is damaged; restore a backup: %w", err)
	case notADatabase:
		return fmt.Errorf("the file is not a database of this program; restore a backup: %w", err)
	}
	return err
}
