package token

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// newTransport is how issuers are reached: a connection for each request, since
// there is one in minutes.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: defaultTimeout}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    defaultTimeout,
		ResponseHeaderTimeout:  defaultTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
}

// remoteURL is an address that may be asked: https, or http to this machine
// where that is allowed.
func remoteURL(s string, local bool) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return nil, errors.New("it is not an address such as https://issuer.example")
	case u.User != nil:
		return nil, errors.New("it has a user name in it")
	case u.Fragment != "":
		return nil, errors.New("it has a fragment")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme == "http" && local && isLoopbackHost(u.Hostname()):
		return u, nil
	}
	return nil, errors.New("it is not https: whoever is on the way could put other keys in")
}

func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// get reads a document of at most so many bytes. A redirect is not followed.
func get(ctx context.Context, by http.RoundTripper, at string, most int64) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, 0, errors.New("its address cannot be used")
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	res, err := do(by, req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, res.StatusCode, fmt.Errorf("the answer of %s is %d, not 200", req.URL.Host, res.StatusCode)
	}
	body, err = readBody(res, most)
	return body, res.StatusCode, err
}

// do sends a request and follows nothing. Its error repeats no more of the
// request than the host.
func do(by http.RoundTripper, req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "wsbouncer")
	c := http.Client{Transport: by, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(req)
	var at *url.Error
	switch {
	case errors.As(err, &at):
		return nil, fmt.Errorf("asking %s: %w", req.URL.Host, at.Err)
	case err != nil:
		return nil, fmt.Errorf("asking %s: %w", req.URL.Host, err)
	}
	return res, nil
}

func readBody(res *http.Response, most int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case int64(len(b)) > most:
		return nil, fmt.Errorf("the answer has more than %d bytes", most)
	}
	return b, nil
}

// readMetadata reads an issuer's metadata (OpenID Connect Discovery §3, RFC 8414
// §2) and returns jwks_uri. The issuer in it must be the one configured, byte
// for byte: else one issuer could speak for another (RFC 8414 §3.3).
func readMetadata(b []byte, issuer string) (jwksURI string, err error) {
	var names [2]string
	err = jsonscan.Object(b, keySetJSON, func(key, value []byte) error {
		for i, name := range [...]string{"issuer", "jwks_uri"} {
			if string(key) != name {
				continue
			}
			s, err := jsonscan.String(value)
			if err != nil || s == "" {
				return fmt.Errorf("%s is not a string, or an empty one", name)
			}
			names[i] = s
		}
		return nil
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("it is not one strict JSON object: %w", err)
	case names[0] == "":
		return "", errors.New("it has no issuer")
	case names[0] != issuer:
		return "", fmt.Errorf("its issuer is %.200q and not %q: the two must be equal, a slash at the end included", names[0], issuer)
	case names[1] == "":
		return "", errors.New("it has no jwks_uri")
	}
	return names[1], nil
}

// checkPublicAlgorithms is checkAlgorithms for keys that everybody may read.
func checkPublicAlgorithms(algs []string) error {
	if err := checkAlgorithms(algs); err != nil {
		return err
	}
	if jws.Symmetric(algs[0]) {
		return errors.New("a secret for HS algorithms does not belong in a JWKS document; use Secret")
	}
	return nil
}
