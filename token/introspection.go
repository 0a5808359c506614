package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/jws"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

const (
	defaultAnswerCache   = 30 * time.Second
	defaultAnswerStale   = 5 * time.Minute
	defaultAnswerSize    = 16384
	maxAnswerBytes       = 64 << 10
	refusedCacheSize     = 8192
	maxRefusedFor        = 5 * time.Second // a refusal is remembered for Cache, and no longer
	unavailableFor       = time.Second     // of one token
	maxAsking            = 32              // for handshakes
	maxAskingOne         = 8               // for one caller
	maxAskingAgain       = 16              // for connections that live
	introspectedIDPrefix = "introspected-"
)

// IntrospectionOptions say who is asked about an issuer's tokens.
type IntrospectionOptions struct {
	// URL is the introspection endpoint (RFC 7662 §2).
	URL string
	// ClientID and ClientSecret are who we are to it (HTTP Basic, RFC 6749 §2.3.1).
	ClientID, ClientSecret string
	// Cache is how long an answer counts; zero is 30 s.
	Cache time.Duration
	// MaxStale is how long the last good answer keeps what lives by a token alive
	// while the endpoint is out of reach; zero is 5 min. New connections never rest
	// on an answer older than Cache.
	MaxStale time.Duration
	// Timeout bounds one question; zero is 5 s.
	Timeout time.Duration
	// Size bounds how many good tokens are remembered; zero is 16384. What lives
	// by a token that was forgotten is ended by Recheck.
	Size int
	// Transport makes the requests; nil: one as RemoteOptions has.
	Transport http.RoundTripper
	// Observe, if not nil, is told after every question whether it was answered.
	Observe func(err error)
}

// Introspection asks an issuer about its tokens (RFC 7662), which may be opaque.
// Only what is active counts, its claims are judged as a JWT's are, and nothing
// is accepted when there is no answer.
type Introspection struct {
	o       IntrospectionOptions
	good    *limit.Cache[string, *introspected] // by Token.KeyID
	refused *limit.Cache[string, *notGood]

	slots, again chan struct{} // questions under way
	callers      turns

	mu      sync.Mutex
	flights map[question]*flight
	status  RemoteStatus
}

// introspected is the last good answer about a token.
type introspected struct {
	raw   string
	by    *Issuer // whose rules it was judged by
	token *Token
	asked time.Time
	due   time.Time // to be asked about again, if anything lives by it
}

type notGood struct {
	by    *Issuer
	err   error
	until time.Time
}

type question struct {
	id string
	by *Issuer
}

type flight struct {
	done  chan struct{}
	token *Token
	err   error
}

// NewIntrospection checks the options. It asks nothing.
func NewIntrospection(o IntrospectionOptions) (*Introspection, error) {
	fail := func(err error) (*Introspection, error) { return nil, fmt.Errorf("token: introspection: %w", err) }
	if _, err := remoteURL(o.URL, true); err != nil {
		return fail(fmt.Errorf("URL: %w", err))
	}
	if o.ClientID == "" || o.ClientSecret == "" {
		return fail(errors.New("ClientID and ClientSecret are needed: the endpoint must not answer anybody (RFC 7662 section 2.1)"))
	}
	for _, d := range []struct {
		is        *time.Duration
		otherwise time.Duration
	}{{&o.Cache, defaultAnswerCache}, {&o.MaxStale, defaultAnswerStale}, {&o.Timeout, defaultTimeout}} {
		if *d.is == 0 {
			*d.is = d.otherwise
		}
		if *d.is < 0 {
			return fail(fmt.Errorf("a duration of %s is negative", *d.is))
		}
	}
	if o.MaxStale < o.Cache {
		return fail(fmt.Errorf("MaxStale (%s) is less than Cache (%s)", o.MaxStale, o.Cache))
	}
	if o.Size <= 0 {
		o.Size = defaultAnswerSize
	}
	if o.Transport == nil {
		t := newTransport()
		t.DisableKeepAlives, t.MaxIdleConnsPerHost, t.IdleConnTimeout = false, maxAsking, time.Minute
		o.Transport = t
	}
	return &Introspection{
		o:       o,
		good:    limit.NewCache[string, *introspected](o.Size),
		refused: limit.NewCache[string, *notGood](refusedCacheSize),
		slots:   make(chan struct{}, maxAsking), again: make(chan struct{}, maxAskingAgain),
		flights: map[question]*flight{},
	}, nil
}

// Inherit takes over what old knows about tokens, if it asks the same endpoint
// as the same client, so that what lives by them goes on. They are judged anew.
func (n *Introspection) Inherit(old *Introspection) bool {
	if n.o.URL != old.o.URL || n.o.ClientID != old.o.ClientID {
		return false
	}
	n.good = old.good
	return true
}

// Interval is how often Recheck should be called.
func (n *Introspection) Interval() time.Duration { return max(n.o.Cache/8, 100*time.Millisecond) }

// Close lets go of idle connections.
func (n *Introspection) Close() {
	(&http.Client{Transport: n.o.Transport}).CloseIdleConnections()
}

// introspectedID is what stands for the key of a token that no key signed: the
// token itself. So whatever ends what a key verified ends what rests on it.
func introspectedID(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return introspectedIDPrefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

// holds reports whether the token of that id was active when it was asked about
// last.
func (n *Introspection) holds(id string) bool {
	_, ok := n.good.Get(id)
	return ok
}

// verify is what is known about raw, or else asks.
func (n *Introspection) verify(ctx context.Context, by *Issuer, raw string, now time.Time) (*Token, error) {
	id := introspectedID(raw)
	if g, ok := n.good.Get(id); ok && g.by == by && now.Before(g.asked.Add(n.o.Cache)) {
		if err := judgeTime(g.token, by, now); err != nil {
			return nil, err
		}
		return g.token, nil
	}
	if r, ok := n.refused.Get(id); ok && r.by == by && now.Before(r.until) {
		return nil, r.err
	}
	// Others may wait for the answer, so it does not end with this one's request.
	return n.ask(ctx, context.WithoutCancel(ctx), question{id, by}, raw, n.slots)
}

// ask asks once for all who want to know the same. Whoever waits for another's
// question does until ctx is done; one that is asked goes on until base is.
func (n *Introspection) ask(ctx, base context.Context, q question, raw string, slots chan struct{}) (*Token, error) {
	n.mu.Lock()
	if f := n.flights[q]; f != nil {
		n.mu.Unlock()
		select {
		case <-f.done:
			return f.token, f.err
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
	}
	if len(n.flights) >= maxWaiting {
		n.mu.Unlock()
		return nil, errBusy
	}
	f := &flight{done: make(chan struct{}), err: unavailable(errors.New("the question was broken off"))}
	n.flights[q] = f
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.flights, q)
		n.mu.Unlock()
		close(f.done)
	}()
	within, cancel := context.WithTimeout(base, n.o.Timeout)
	defer cancel()
	done, ok := n.callers.take(within, callerOf(ctx))
	if !ok {
		f.err = errBusy
		return nil, f.err
	}
	defer done()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-within.Done():
		f.err = errBusy
		return nil, f.err
	}
	asked := time.Now()
	body, err := n.post(within, raw)
	if err != nil {
		f.err = unavailable(err)
	} else {
		f.token, f.err = judgeAnswer(body, q.by, q.id, time.Now())
	}
	n.count(f.err)
	n.remember(q, raw, f, asked)
	return f.token, f.err
}

var errBusy = unavailable(errors.New("too many tokens are being asked about"))

// count notes whether there was an answer, whatever it said.
func (n *Introspection) count(err error) {
	if !errors.Is(err, &Error{Code: CodeUnavailable}) {
		err = nil
	}
	n.mu.Lock()
	n.status.Fetches++
	n.status.Err = err
	if err == nil {
		n.status.Fetched = time.Now().Round(0)
	} else {
		n.status.Failures++
	}
	n.mu.Unlock()
	if n.o.Observe != nil {
		n.o.Observe(err)
	}
}

// Status is how asking stands. Keys are the good tokens that are remembered.
func (n *Introspection) Status() RemoteStatus {
	n.mu.Lock()
	s := n.status
	n.mu.Unlock()
	s.Keys = n.good.Len()
	return s
}

func unavailable(cause error) *Error {
	return refuseFor(CodeUnavailable, "the issuer could not be asked about the token", cause)
}

func (n *Introspection) remember(q question, raw string, f *flight, asked time.Time) {
	now := time.Now()
	var bad *Error
	switch {
	case f.err == nil:
		// Asked again well before the answer is too old, and not all at once.
		due := asked.Add(n.o.Cache/2 + time.Duration(rand.Int64N(int64(n.o.Cache)/8+1))) //nolint:gosec // no secret
		n.good.Put(q.id, &introspected{raw: raw, by: q.by, token: f.token, asked: asked, due: due})
		n.refused.Delete(q.id)
	case errors.As(f.err, &bad) && bad.Code == CodeUnavailable:
		// What is known stays, for what lives by it.
		n.refused.Put(q.id, &notGood{q.by, f.err, now.Add(min(unavailableFor, n.o.Cache))})
	default:
		n.good.Delete(q.id)
		n.refused.Put(q.id, &notGood{q.by, f.err, now.Add(min(maxRefusedFor, n.o.Cache))})
	}
}

// post asks about a token (RFC 7662 §2.1). Its error repeats nothing of it.
func (n *Introspection) post(ctx context.Context, raw string) ([]byte, error) {
	form := url.Values{"token": {raw}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.o.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("its address cannot be used")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.SetBasicAuth(url.QueryEscape(n.o.ClientID), url.QueryEscape(n.o.ClientSecret))
	res, err := do(n.o.Transport, req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer of %s is %d, not 200", req.URL.Host, res.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("the answer of %s is not application/json", req.URL.Host)
	}
	return readBody(res, maxAnswerBytes)
}

// judgeAnswer reads an introspection response (RFC 7662 §2.2). Only active true
// says anything for the token, and then every claim is judged as a JWT's.
func judgeAnswer(body []byte, by *Issuer, id string, now time.Time) (*Token, error) {
	c := new(claims)
	var active []byte
	var tokenType string
	var refused *Error
	err := jsonscan.Object(body, payloadJSON, func(key, value []byte) error {
		var e *Error
		switch string(key) {
		case "active":
			active = bytes.Clone(value)
		case "token_type":
			tokenType, e = identifier("token_type", value)
		default:
			e = c.read(string(key), value)
		}
		if refused == nil {
			refused = e
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, unavailable(fmt.Errorf("the answer is not one strict JSON object: %w", err))
	case string(active) == "false":
		return nil, refuse(CodeInactive, "its issuer says that it is not active")
	case string(active) != "true":
		return nil, unavailable(errors.New("the answer does not say whether the token is active"))
	case refused != nil:
		return nil, refused
	case c.issuer != "" && c.issuer != by.Name:
		return nil, refuse(CodeIssuer, "iss is another issuer")
	case strings.EqualFold(tokenType, "DPoP"):
		c.bound = true
	case tokenType != "" && !strings.EqualFold(tokenType, "Bearer") && !strings.EqualFold(tokenType, "access_token"):
		return nil, refuse(CodeType, "token_type is of another kind of token")
	}
	if c.tokenUse == "access_token" {
		c.tokenUse = "access"
	}
	if what := c.otherKind(); what != "" {
		return nil, refuse(CodeType, "it is "+what)
	}
	t, err := c.token(by, body)
	if err != nil {
		return nil, err
	}
	t.KeyID = id
	return t, judgeTime(t, by, now)
}

// introspector finds the issuer that has to be asked about raw; nil: none, it is
// verified by a key.
func (s *issuers) introspector(raw string, maxBytes int) (*Issuer, error) {
	if s.opaque == nil {
		return nil, nil
	}
	if strings.Count(raw, ".") != 2 || !strings.HasPrefix(raw, "ey") {
		if !token68(raw) {
			return nil, nil
		}
		return s.opaque, nil
	}
	m, err := jws.Parse(raw, maxBytes)
	if err != nil {
		return nil, nil //nolint:nilerr // it is refused as any JWT is
	}
	c, err := readClaims(m.Payload)
	if err != nil {
		return nil, nil //nolint:nilerr // as above
	}
	by := s.byName[c.issuer]
	if by == nil || by.Introspection == nil {
		return nil, nil
	}
	return by, checkType(m, c, by)
}

// token68 is what a bearer token is made of (RFC 6750 §2.1).
func token68(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~+/=", r)
	})
}

// Introspecting are the names of the issuers that are asked about their tokens.
func (v *Verifier) Introspecting() (names []string) {
	for name, i := range v.issuers.Load().byName {
		if i.Introspection != nil {
			names = append(names, name)
		}
	}
	return names
}

// Recheck asks an issuer again about tokens that something lives by, named by
// their KeyID, as soon as the last answer is half as old as it may be. It returns
// those that are not good any more, and those that nothing was heard of for
// MaxStale. Neither is trusted any more when it returns.
func (v *Verifier) Recheck(ctx context.Context, issuer string, keyIDs []string) (over, stale []string) {
	by := v.issuers.Load().byName[issuer]
	if by == nil || by.Introspection == nil {
		return nil, nil
	}
	n := by.Introspection
	var mu sync.Mutex
	var all sync.WaitGroup
	var failed atomic.Int32 // questions in a row without an answer
	next := make(chan string)
	for range min(maxAskingAgain, len(keyIDs)) {
		all.Go(func() {
			for id := range next {
				isOver, isStale := n.recheck(ctx, by, id, &failed)
				mu.Lock()
				if isOver {
					over = append(over, id)
				}
				if isStale {
					stale = append(stale, id)
				}
				mu.Unlock()
			}
		})
	}
	for _, id := range keyIDs {
		next <- id
	}
	close(next)
	all.Wait()
	return over, stale
}

func (n *Introspection) recheck(ctx context.Context, by *Issuer, id string, failed *atomic.Int32) (over, stale bool) {
	g, ok := n.good.Get(id)
	now := time.Now()
	switch {
	case !ok:
		return true, false
	case ctx.Err() != nil || now.Before(g.due) && g.by == by || !now.Before(g.token.Expiry):
		return false, false // what has expired ends by its deadline
	}
	// Once so many in a row had no answer, waiting for each of the others would
	// only keep those that are too old alive.
	if failed.Load() < maxAskingAgain {
		_, err := n.ask(ctx, ctx, question{id, by}, g.raw, n.again)
		switch {
		case err == nil:
			failed.Store(0)
			return false, false
		case !errors.Is(err, &Error{Code: CodeUnavailable}):
			failed.Store(0)
			return true, false
		}
		failed.Add(1)
	}
	if time.Now().Before(g.asked.Add(n.o.MaxStale)) {
		return false, false
	}
	n.good.Delete(id)
	return false, true
}
