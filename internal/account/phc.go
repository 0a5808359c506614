package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// params are those of argon2id: memory in KiB, passes, lanes.
type params struct {
	memory, time uint32
	lanes        uint8
}

// current is what new hashes are made with: the OWASP Password Storage Cheat
// Sheet's m=19456, t=2, p=1.
var current = params{memory: 19456, time: 2, lanes: 1}

// equals are the settings the same sheet calls equally strong. Hashes made with
// them, or with more work, are not made anew at login.
var equals = []params{{47104, 1, 1}, {12288, 3, 1}, {9216, 4, 1}, {7168, 5, 1}}

// What a stored hash can ask for at most: an imported one must not be able to
// take the machine's memory at every login.
const (
	maxMemory = 128 << 10 // KiB
	maxTime   = 10
	maxLanes  = 8
	maxWork   = 512 << 10 // KiB × passes
	saltBytes = 16
	hashBytes = 32
)

var errHash = errors.New("not an argon2id hash in PHC format within bounds")

// fresh reports whether p is as strong as what new hashes are made with.
func (p params) fresh() bool {
	if p == current {
		return true
	}
	for _, e := range equals {
		if p == e {
			return true
		}
	}
	return p.memory >= current.memory && uint64(p.memory)*uint64(p.time) >= uint64(current.memory)*uint64(current.time)
}

type phc struct {
	params
	salt, sum []byte
}

// b64 is PHC's: the standard alphabet, no padding, nothing after the last bit.
var b64 = base64.RawStdEncoding.Strict()

func (h phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.lanes,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

// parsePHC reads $argon2id$v=19$m=…,t=…,p=…$salt$hash
// (github.com/P-H-C/phc-string-format), in exactly that form.
func parsePHC(s string) (phc, error) {
	f := strings.Split(s, "$")
	if len(s) > 512 || len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, errHash
	}
	var h phc
	fields := strings.Split(f[3], ",")
	if len(fields) != 3 {
		return phc{}, errHash
	}
	for i, want := range []struct {
		name     string
		min, max uint64
		set      func(uint64)
	}{
		{"m=", 8, maxMemory, func(v uint64) { h.memory = uint32(v) }}, //nolint:gosec // bounded by max
		{"t=", 1, maxTime, func(v uint64) { h.time = uint32(v) }},     //nolint:gosec // bounded by max
		{"p=", 1, maxLanes, func(v uint64) { h.lanes = uint8(v) }},    //nolint:gosec // bounded by max
	} {
		digits, ok := strings.CutPrefix(fields[i], want.name)
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || v < want.min || v > want.max || strconv.FormatUint(v, 10) != digits {
			return phc{}, errHash
		}
		want.set(v)
	}
	if h.memory < 8*uint32(h.lanes) || uint64(h.memory)*uint64(h.time) > maxWork {
		return phc{}, errHash
	}
	var err error
	if h.salt, err = b64.DecodeString(f[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return phc{}, errHash
	}
	if h.sum, err = b64.DecodeString(f[5]); err != nil || len(h.sum) < 16 || len(h.sum) > 64 {
		return phc{}, errHash
	}
	return h, nil
}

// newHash hashes a normalised password.
func newHash(password []byte) string {
	h := phc{params: current, salt: make([]byte, saltBytes)}
	_, _ = rand.Read(h.salt) // never fails
	h.sum = h.key(password, hashBytes)
	return h.String()
}

func (h phc) key(password []byte, n uint32) []byte {
	return argon2.IDKey(password, h.salt, h.time, h.memory, h.lanes, n)
}

func (h phc) matches(password []byte) bool {
	return subtle.ConstantTimeCompare(h.key(password, uint32(len(h.sum))), h.sum) == 1 //nolint:gosec // at most 64
}

// dummy is what passwords of unknown names are checked against, so that they
// cost the same. Its sum is no password's.
var dummy = phc{params: current, salt: []byte("wsbouncer dummy."), sum: make([]byte, hashBytes)}

// hasher bounds how many hashes are computed at once, and how many callers wait
// for their turn: 19 MiB and some 30 ms of a core each are the cheapest way to
// exhaust a server.
type hasher struct {
	slots   chan struct{}
	waiting chan struct{}
}

// waitersPerSlot: with 30 ms a hash nobody waits longer than half a second.
const waitersPerSlot = 16

func newHasher(slots int) *hasher {
	return &hasher{slots: make(chan struct{}, slots), waiting: make(chan struct{}, slots*(1+waitersPerSlot))}
}

// do runs fn in a slot. It fails with ErrBusy when too many wait already, and
// when ctx ends first.
func (h *hasher) do(ctx context.Context, fn func()) error {
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		return ErrBusy
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	fn()
	return nil
}
