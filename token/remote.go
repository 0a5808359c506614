package token

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of RemoteOptions.
const (
	defaultRefresh    = 10 * time.Minute
	defaultMaxStale   = 24 * time.Hour
	defaultRefetchMin = 10 * time.Second
	defaultTimeout    = 5 * time.Second
)

// maxWaiting bounds how many callers wait for one fetch. More than that is a
// flood, and is told to come again.
const maxWaiting = 4096

// RemoteOptions say where an issuer's keys are fetched from, and how often.
type RemoteOptions struct {
	// Issuer is the issuer's name. Without a URL it is an address too: its
	// metadata (OpenID Connect Discovery §4, else RFC 8414 §3) says where the keys
	// are, and must name this very issuer.
	Issuer string
	// URL is the address of the JWKS document; empty: the metadata says.
	URL string
	// Algorithms are those allowed, as in Issuer, none of them HS.
	Algorithms []string
	// Refresh is how often the keys are fetched; zero is 10 min.
	Refresh time.Duration
	// MaxStale is how long the keys count after the last fetch that succeeded;
	// zero is 24 h.
	MaxStale time.Duration
	// RefetchMin is the least time between the beginnings of two fetches,
	// whatever tokens name; zero is 10 s.
	RefetchMin time.Duration
	// Timeout bounds one fetch as a whole, and whoever waits for it; zero is 5 s.
	Timeout time.Duration
	// Transport makes the requests; nil: one that verifies certificates by the
	// system's roots and honours the proxy settings of the environment.
	Transport http.RoundTripper
	// Observe, if not nil, is told of every fetch after it; Changed whenever keys
	// have gone or come, those included that became too old: time to review what
	// was verified by them. Run calls both.
	Observe func(Fetch)
	Changed func()
}

// A Fetch is one attempt to fetch an issuer's keys.
type Fetch struct {
	Issuer   string
	Duration time.Duration
	// Changed: the keys are not those from before.
	Changed bool
	// Err is why it failed; the keys from before stay.
	Err error
}

// RemoteStatus is how fetching stands.
type RemoteStatus struct {
	// Keys are those that count just now.
	Keys int
	// Fetched is when a fetch last succeeded; zero: never.
	Fetched time.Time
	// Stale: that is longer ago than MaxStale, so no key counts.
	Stale bool
	// Err is why the last fetch failed; nil: it did not, or there was none.
	Err error
	// Fetches and Failures are counted since the beginning.
	Fetches, Failures uint64
}

// Remote is a KeySet that is fetched and kept up to date by Run. Keys that
// could be fetched once go on counting while the issuer is out of reach, for
// MaxStale; a document that is no sound key set changes nothing.
type Remote struct {
	o    RemoteOptions
	from keySource
	set  atomic.Pointer[remoteSet]
	wake chan struct{} // tells Run that somebody wants a fetch

	mu      sync.Mutex
	flight  chan struct{} // closed when the fetch under way, or about to be, is over
	waiting int
	wanted  bool      // somebody came too soon after the last fetch
	began   time.Time // the last fetch
	status  RemoteStatus

	first     chan struct{} // closed after the first fetch, good or bad
	firstOnce sync.Once
	toldStale bool // by Run alone
}

// remoteSet is a set that was fetched.
type remoteSet struct {
	keys       *staticKeys
	print      string // equal for equal sets
	generation uint64
	fetched    time.Time // wall time: a suspended machine's keys grow old too
}

// generations numbers the sets of all Remotes, so that one that takes another's
// place never reuses a number. 0 is nobody's.
var generations atomic.Uint64

// NewRemote checks the options and fetches nothing: Run does.
func NewRemote(o RemoteOptions) (*Remote, error) {
	fail := func(err error) (*Remote, error) { return nil, fmt.Errorf("token: remote keys: %w", err) }
	if err := checkPublicAlgorithms(o.Algorithms); err != nil {
		return fail(err)
	}
	from, err := keySourceOf(o.Issuer, o.URL)
	if err != nil {
		return fail(err)
	}
	for _, d := range []struct {
		is        *time.Duration
		otherwise time.Duration
	}{{&o.Refresh, defaultRefresh}, {&o.MaxStale, defaultMaxStale}, {&o.RefetchMin, defaultRefetchMin}, {&o.Timeout, defaultTimeout}} {
		if *d.is == 0 {
			*d.is = d.otherwise
		}
		if *d.is < 0 {
			return fail(fmt.Errorf("a duration of %s is negative", *d.is))
		}
	}
	if o.Refresh > o.MaxStale || o.RefetchMin > o.Refresh {
		return fail(fmt.Errorf("RefetchMin (%s), Refresh (%s) and MaxStale (%s) are not in this order", o.RefetchMin, o.Refresh, o.MaxStale))
	}
	if o.Transport == nil {
		o.Transport = newTransport()
	}
	return &Remote{o: o, from: from, wake: make(chan struct{}, 1), first: make(chan struct{})}, nil
}

// Keys implements KeySet with what was fetched last, if that is not too old.
func (r *Remote) Keys(kid string) ([]Key, uint64) {
	s := r.fresh(time.Now())
	if s == nil {
		return nil, 0
	}
	keys, _ := s.keys.Keys(kid)
	return keys, s.generation
}

// fresh is the set that counts, or nil.
func (r *Remote) fresh(now time.Time) *remoteSet {
	s := r.set.Load()
	if s == nil || !now.Round(0).Before(s.fetched.Add(r.o.MaxStale)) {
		return nil
	}
	return s
}

// errNoKeys: nothing can be said about any token of the issuer.
var errNoKeys = errors.New("the issuer's keys could not be fetched")

// Await is for a token that no key of the set fits. It waits for the fetch that
// is under way, or else for a new one if RefetchMin has passed since the last;
// if not, one is made as soon as it has and nobody waits. The error says that
// no key counts at all; without one, look again.
func (r *Remote) Await(ctx context.Context) error {
	if flight := r.join(time.Now()); flight != nil {
		timeout := time.NewTimer(r.o.Timeout)
		defer timeout.Stop()
		select {
		case <-flight:
		case <-timeout.C:
		case <-ctx.Done():
		}
		r.mu.Lock()
		r.waiting--
		r.mu.Unlock()
	}
	if r.fresh(time.Now()) == nil {
		return errNoKeys
	}
	return nil
}

// join is the fetch to wait for, nil for none.
func (r *Remote) join(now time.Time) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight == nil {
		r.wanted = true
		select {
		case r.wake <- struct{}{}:
		default:
		}
		if now.Before(r.began.Add(r.o.RefetchMin)) {
			return nil
		}
		r.flight = make(chan struct{})
	}
	if r.waiting == maxWaiting {
		return nil
	}
	r.waiting++
	return r.flight
}

// Status is how fetching stands.
func (r *Remote) Status() RemoteStatus {
	r.mu.Lock()
	s := r.status
	r.mu.Unlock()
	if set := r.set.Load(); set != nil {
		s.Fetched = set.fetched
		if r.fresh(time.Now()) != nil {
			s.Keys = len(set.keys.all)
		} else {
			s.Stale = true
		}
	}
	return s
}

// Tried waits until a first fetch has succeeded or failed, or ctx is done.
func (r *Remote) Tried(ctx context.Context) {
	select {
	case <-r.first:
	case <-ctx.Done():
	}
}

// Inherit takes over what old has fetched, if it fetches the same keys. Call it
// before Run.
func (r *Remote) Inherit(old *Remote) bool {
	if r.from != old.from || strings.Join(r.o.Algorithms, " ") != strings.Join(old.o.Algorithms, " ") {
		return false
	}
	s := old.set.Load()
	if s == nil {
		return false
	}
	r.set.Store(s)
	old.mu.Lock()
	began, status := old.began, old.status
	old.mu.Unlock()
	r.mu.Lock()
	r.began, r.status = began, status
	r.mu.Unlock()
	return true
}

// Run fetches the keys at once and then as the options say, until ctx ends.
func (r *Remote) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer r.landed() // nobody waits for a fetch that will not be
	next := time.Time{}
	if r.set.Load() != nil { // inherited
		next = r.later(time.Now())
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-r.wake:
		}
		now := time.Now()
		r.tellStale(now)
		if at := r.due(next); at.After(now) {
			timer.Reset(time.Until(at))
			continue
		}
		err := r.fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		now = time.Now()
		next = r.later(now)
		if err != nil {
			next = now // as soon as may be
		}
		r.tellStale(now)
		timer.Reset(time.Until(r.due(next)))
	}
}

// later is when the next regular fetch is: not exactly at the interval, so that
// many nodes do not ask at once.
func (r *Remote) later(now time.Time) time.Time {
	spread := int64(r.o.Refresh)/10 + 1
	return now.Add(r.o.Refresh - time.Duration(rand.Int64N(spread))) //nolint:gosec // no secret
}

// due is when to fetch, or to look whether the set is too old: at next, or
// sooner if somebody wants it, but never too soon after the last fetch.
func (r *Remote) due(next time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted {
		next = time.Time{}
	}
	if soonest := r.began.Add(r.o.RefetchMin); next.Before(soonest) {
		next = soonest
	}
	return next
}

// tellStale reports once that the set has become too old.
func (r *Remote) tellStale(now time.Time) {
	stale := r.set.Load() != nil && r.fresh(now) == nil
	if stale && !r.toldStale && r.o.Changed != nil {
		r.o.Changed()
	}
	r.toldStale = stale
}

func (r *Remote) fetch(ctx context.Context) error {
	r.mu.Lock()
	if r.flight == nil {
		r.flight = make(chan struct{})
	}
	r.began, r.wanted = time.Now(), false
	began := r.began
	r.mu.Unlock()

	within, cancel := context.WithTimeout(ctx, r.o.Timeout)
	keys, err := r.from.fetch(within, r.o.Transport, r.o.Algorithms)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	changed := false
	if err == nil {
		changed, err = r.take(keys, time.Now())
	}
	r.mu.Lock()
	r.status.Fetches++
	r.status.Err = err
	if err != nil {
		r.status.Failures++
	}
	r.mu.Unlock()
	r.landed()
	r.firstOnce.Do(func() { close(r.first) })
	if r.o.Observe != nil {
		r.o.Observe(Fetch{Issuer: r.o.Issuer, Duration: time.Since(began), Changed: changed, Err: err})
	}
	if changed && r.o.Changed != nil {
		r.o.Changed()
	}
	return err
}

// landed lets go whoever waits.
func (r *Remote) landed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil {
		close(r.flight)
		r.flight = nil
	}
}

// take puts a set into effect.
func (r *Remote) take(keys *staticKeys, now time.Time) (changed bool, err error) {
	text, err := keys.print()
	if err != nil {
		return false, err
	}
	next := &remoteSet{keys: keys, print: text, fetched: now.Round(0)}
	was := r.set.Load()
	if was != nil && was.print == text {
		next.keys, next.generation = was.keys, was.generation
	} else {
		next.generation, changed = generations.Add(1), true
	}
	r.set.Store(next)
	return changed, nil
}

// keySource is where keys come from. It is comparable.
type keySource struct {
	issuer string
	url    string // of the JWKS; empty: the metadata says
	local  bool   // its operator is this machine's: plain http to loopback is allowed
}

func keySourceOf(issuer, address string) (keySource, error) {
	what, is := "URL", address
	if address == "" {
		what, is = "Issuer", issuer
	}
	u, err := remoteURL(is, true)
	if err != nil {
		return keySource{}, fmt.Errorf("%s: %w", what, err)
	}
	if address == "" && (u.RawQuery != "" || u.ForceQuery) {
		return keySource{}, errors.New("Issuer: an issuer whose metadata is to be found has no query (RFC 8414 section 2)")
	}
	return keySource{issuer: issuer, url: address, local: isLoopbackHost(u.Hostname())}, nil
}

// fetch gets the keys, through the issuer's metadata if it must.
func (s keySource) fetch(ctx context.Context, by http.RoundTripper, algs []string) (*staticKeys, error) {
	at := s.url
	if at == "" {
		var err error
		if at, err = s.discover(ctx, by); err != nil {
			return nil, err
		}
	}
	body, _, err := get(ctx, by, at, maxKeySetBytes)
	if err != nil {
		return nil, fmt.Errorf("the key set: %w", err)
	}
	keys, _, err := parseKeySet(body, algs)
	if err != nil {
		return nil, fmt.Errorf("the key set: %w", err)
	}
	return keys, nil
}

// discover is the jwks_uri of the issuer's metadata.
func (s keySource) discover(ctx context.Context, by http.RoundTripper) (string, error) {
	u, err := url.Parse(s.issuer)
	if err != nil {
		return "", err
	}
	base := strings.TrimSuffix(s.issuer, "/") // OpenID Connect Discovery §4.1
	body, status, err := get(ctx, by, base+"/.well-known/openid-configuration", maxKeySetBytes)
	if status == http.StatusNotFound {
		// RFC 8414 §3.1: between the host and the path.
		origin := u.Scheme + "://" + u.Host
		body, _, err = get(ctx, by, origin+"/.well-known/oauth-authorization-server"+strings.TrimPrefix(base, origin), maxKeySetBytes)
	}
	if err != nil {
		return "", fmt.Errorf("the metadata: %w", err)
	}
	at, err := readMetadata(body, s.issuer)
	if err != nil {
		return "", fmt.Errorf("the metadata: %w", err)
	}
	if _, err := remoteURL(at, s.local); err != nil {
		return "", fmt.Errorf("the metadata: jwks_uri: %w", err)
	}
	return at, nil
}
