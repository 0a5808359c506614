package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

const (
	ringVersion  = 1
	ringMode     = 0o600
	maxRingBytes = 1 << 20
)

type ringFile struct {
	Version int       `json:"version"`
	Keys    []ringKey `json:"keys"`
}

// readRing reads the keys at path; none when there is no file.
func readRing(path string) ([]ringKey, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Asked of what was opened, not of the name.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	if loose := info.Mode().Perm() &^ ringMode; loose != 0 {
		return nil, fmt.Errorf("%s can be touched by others (mode %04o): if nobody has read it, chmod 600 it; else delete it, and every token ends", path, info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRingBytes+1))
	if err != nil {
		return nil, err
	}
	var file ringFile
	if err := jsonscan.Decode(b, jsonscan.Options{MaxBytes: maxRingBytes}, &file); err != nil {
		return nil, fmt.Errorf("%s cannot be read; restore it from a backup, or delete it, and every token ends: %w", path, err)
	}
	if file.Version != ringVersion {
		return nil, fmt.Errorf("%s has version %d, this program knows %d: use the program that wrote it", path, file.Version, ringVersion)
	}
	states := map[KeyState]int{}
	for _, k := range file.Keys {
		states[k.State]++
	}
	if states[KeyActive] != 1 || states[KeyNext] != 1 || states[KeyActive]+states[KeyNext]+states[KeyRetired]+states[KeyRevoked] != len(file.Keys) {
		return nil, fmt.Errorf("%s does not hold one active and one next key; restore it from a backup, or delete it, and every token ends", path)
	}
	return file.Keys, nil
}

// writeRing replaces the file in one step and returns when that is durable.
// Killed anywhere, it leaves the old file or the new one, and perhaps a
// temporary one that the next writing takes away.
func writeRing(path string, keys []ringKey) (err error) {
	b, err := json.MarshalIndent(ringFile{Version: ringVersion, Keys: keys}, "", "  ")
	if err != nil {
		return err
	}
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, ringMode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes a renaming in the folder survive a loss of power.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
