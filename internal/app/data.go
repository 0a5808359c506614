package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/wsbouncer/wsbouncer/internal/store/sqlite"
)

// Files in the data folder.
const (
	databaseFile = "wsbouncer.db"
	keysFile     = "keys.json"
	factorFile   = "factors.key"
	lockFile     = "lock"
	socketFile   = "admin.sock"
	acmeFolder   = "acme"
)

// dataFolder is the data folder while we hold its lock: one process at a time
// owns the database, the keys and the admin socket.
type dataFolder struct {
	path string
	lock *os.File
}

// errDataInUse says that another process holds the lock.
var errDataInUse = errors.New("in use")

func openData(path string) (*dataFolder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, dataError(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("data folder %s: other users may write to it (mode %o); chmod 700 it", path, info.Mode().Perm())
	}
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dataError(err)
	}
	if err := tryLock(lock); err != nil {
		lock.Close()
		if errors.Is(err, errDataInUse) {
			return nil, fmt.Errorf("data folder %s is %w by another wsbouncer; commands talk to it through its admin socket", path, errDataInUse)
		}
		return nil, fmt.Errorf("locking data folder %s: %w", path, err)
	}
	return &dataFolder{path: path, lock: lock}, nil
}

func dataError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("data folder: %w; run this as the user that runs the server, or set another data folder in the configuration", err)
	}
	return fmt.Errorf("data folder: %w", err)
}

func (d *dataFolder) file(name string) string { return filepath.Join(d.path, name) }

// openStore opens the database. The keys are made after it, so where they are it
// was: if it is gone, so are the revocations, but the tokens that the keys
// signed are still good.
func (d *dataFolder) openStore(ctx context.Context) (*sqlite.Store, error) {
	if _, err := os.Stat(d.file(keysFile)); errors.Is(err, fs.ErrNotExist) {
		return sqlite.Open(ctx, d.file(databaseFile))
	}
	s, err := sqlite.OpenExisting(ctx, d.file(databaseFile))
	if err != nil {
		return nil, fmt.Errorf("%w (the keys are there, %s: to begin anew, move both away)", err, d.file(keysFile))
	}
	return s, nil
}

// factorKey is the key that second factors' secrets are sealed under, made at the
// first start. It is apart from the database, so that a copy of that alone opens none.
func (d *dataFolder) factorKey() ([]byte, error) {
	path := d.file(factorFile)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, factorKeyBytes)
		_, _ = rand.Read(key) // never fails
		return key, writeNew(path, key)
	}
	if err != nil {
		return nil, dataError(err)
	}
	if len(key) != factorKeyBytes {
		return nil, fmt.Errorf("%s has %d bytes instead of %d; restore it from a backup, or remove it: then whoever uses an authenticator app needs a recovery code", path, len(key), factorKeyBytes)
	}
	return key, nil
}

const factorKeyBytes = 32

// writeNew writes a file for our eyes alone that is there whole or not at all.
func writeNew(path string, content []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // in our data folder
	if err != nil {
		return dataError(err)
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return dataError(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return dataError(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return dataError(err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Close gives the lock back. The file stays: removing it would let two
// processes lock two files of one name.
func (d *dataFolder) Close() error { return d.lock.Close() }

// SocketPath is the admin socket of a data folder.
func SocketPath(data string) string { return filepath.Join(data, socketFile) }
