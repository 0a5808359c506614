package wsbouncer

import (
	"math/bits"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// sources is a set of places a credential may stand in.
type sources uint8

const (
	inTicket sources = 1 << iota
	inHeader
	inSubprotocol
	inQuery
	inCookie
	inFirstMessage
)

var sourceNames = map[string]sources{
	fromTicket: inTicket, fromHeader: inHeader, fromSubprotocol: inSubprotocol,
	fromQuery: inQuery, fromCookie: inCookie, fromFirstMessage: inFirstMessage,
}

// sources is the set d.TokenFrom names. Unknown names open no place.
func (d Demand) sources() sources {
	if d.TokenFrom == nil {
		return inTicket | inHeader | inSubprotocol | inQuery
	}
	var s sources
	for _, name := range d.TokenFrom {
		s |= sourceNames[name]
	}
	return s
}

// carried is what a request carries: every credential found, by place, and what
// is left of the request without them.
type carried struct {
	found     [5]found // by place: see at
	query     string   // without ticket, token, access_token
	cookies   []string // Cookie lines without ours
	protocols []string // the application's
	badList   string   // what is wrong with Sec-WebSocket-Protocol
	dpop      bool     // the header's token came with the scheme DPoP
}

// found is how often a credential stood in one place, and the first of them.
type found struct {
	n     int
	value string
}

func (c *carried) at(s sources) *found { return &c.found[bits.TrailingZeros8(uint8(s))] }

func (c *carried) add(s sources, value string) {
	f := c.at(s)
	if f.n++; f.n == 1 {
		f.value = value
	}
}

// carry finds every credential of r, in enabled and disabled places alike.
func carry(r *http.Request, cookieName string) carried {
	var c carried
	for _, line := range r.Header["Authorization"] {
		scheme, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		dpop := strings.EqualFold(scheme, "DPoP")
		if dpop || strings.EqualFold(scheme, "Bearer") {
			c.add(inHeader, strings.Trim(value, " "))
			c.dpop = dpop
		}
	}
	if len(r.Header["Authorization"]) > 1 && c.at(inHeader).n == 1 {
		c.add(inHeader, "") // two lines are two credentials, whatever their schemes
	}
	c.readProtocols(r.Header["Sec-Websocket-Protocol"])
	c.readQuery(r.URL.RawQuery)
	c.readCookies(r.Header["Cookie"], cookieName)
	return c
}

// readProtocols splits off "bearer, TOKEN". Entries are tokens (RFC 6455 §4.1,
// RFC 9110 §5.6.2); empty ones are skipped as in every list.
func (c *carried) readProtocols(lines []string) {
	bearer := false
	for _, line := range lines {
		for entry := range strings.SplitSeq(line, ",") {
			entry = strings.Trim(entry, " \t")
			switch {
			case entry == "":
				continue
			case bearer:
				c.add(inSubprotocol, entry)
				bearer = false
			case entry == "bearer":
				bearer = true
			case strings.EqualFold(entry, "bearer"):
				// Subprotocols are case-sensitive, so what follows would go on as
				// the application's, which it surely is not.
				c.badList = `The subprotocol before a token is "bearer", in lower case.`
			case !isToken(entry):
				c.badList = "Sec-WebSocket-Protocol is not a list of tokens."
			default:
				c.protocols = append(c.protocols, entry)
			}
		}
	}
	if bearer {
		c.add(inSubprotocol, "")
	}
}

func isToken(s string) bool {
	for i := range len(s) {
		if b := s[i]; b <= ' ' || b >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, b) >= 0 {
			return false
		}
	}
	return s != ""
}

// readQuery takes ticket, token and access_token out of a query, under every
// escaping of those names, and leaves the rest as it was written.
func (c *carried) readQuery(query string) {
	if query == "" {
		return
	}
	var kept []string
	ours := false
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		place := sources(0)
		if plain, err := url.QueryUnescape(name); err == nil {
			switch plain {
			case "ticket":
				place = inTicket
			case "token", "access_token":
				place = inQuery
			}
		}
		if place == 0 {
			kept = append(kept, part)
			continue
		}
		ours = true
		plain, err := url.QueryUnescape(value)
		if err != nil {
			plain = "" // present, and no credential
		}
		c.add(place, plain)
	}
	if !ours {
		c.query = query
		return
	}
	c.query = strings.Join(kept, "&")
}

// readCookies takes our cookies out: the access token's, and those that share
// its name's stem (refresh, admin), which a browser may send along because
// cookies know no ports.
func (c *carried) readCookies(lines []string, name string) {
	stem := bareCookie(name)
	for _, line := range lines {
		var kept []string
		ours := false
		for pair := range strings.SplitSeq(line, ";") {
			key, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			key = strings.Trim(key, " \t")
			bare := bareCookie(key)
			switch {
			case key == name:
				c.add(inCookie, strings.Trim(value, ` "`))
				ours = true
			case strings.EqualFold(bare, stem), len(bare) > len(stem) && strings.EqualFold(bare[:len(stem)+1], stem+"-"):
				ours = true
			default:
				kept = append(kept, pair)
			}
		}
		if !ours {
			c.cookies = append(c.cookies, line)
		} else if rest := strings.TrimLeft(strings.Join(kept, ";"), " \t"); rest != "" {
			c.cookies = append(c.cookies, rest)
		}
	}
}

// bareCookie is a cookie's name without the prefixes that browsers know.
func bareCookie(name string) string {
	for _, prefix := range []string{"__Host-", "__Secure-"} {
		if len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			return name[len(prefix):]
		}
	}
	return name
}

// choose picks the one credential of the enabled places. With none it returns
// place 0. Several, or one repeated, are never merged (RFC 6750 §2); a cookie
// beside another is ignored, because browsers send cookies unasked.
func (c *carried) choose(enabled sources) (place sources, value string, err error) {
	for _, s := range [...]sources{inTicket, inHeader, inSubprotocol, inQuery, inCookie} {
		f := c.at(s)
		if enabled&s == 0 || f.n == 0 || s == inCookie && place != 0 {
			continue
		}
		if place != 0 || f.n > 1 {
			return 0, "", reason.CredentialAmbiguous
		}
		place, value = s, f.value
	}
	return place, value, nil
}

// strip returns a copy of r without any credential.
func (c *carried) strip(r *http.Request) *http.Request {
	clean := r.WithContext(r.Context())
	u := *r.URL
	u.RawQuery, u.ForceQuery, u.User = c.query, false, nil
	clean.URL = &u
	if path, _, has := strings.Cut(r.RequestURI, "?"); has {
		clean.RequestURI = path
		if c.query != "" {
			clean.RequestURI += "?" + c.query
		}
	}
	// A middleware before us may have parsed the query already.
	clean.Form, clean.PostForm, clean.MultipartForm = nil, nil, nil
	clean.Header = r.Header.Clone()
	delete(clean.Header, "Authorization")
	delete(clean.Header, "Dpop")
	setList(clean.Header, "Cookie", c.cookies)
	if c.at(inSubprotocol).n > 0 {
		var list []string
		if len(c.protocols) > 0 {
			list = []string{strings.Join(c.protocols, ", ")}
		}
		setList(clean.Header, "Sec-Websocket-Protocol", list)
	}
	return clean
}

func setList(h http.Header, key string, lines []string) {
	if len(lines) == 0 {
		delete(h, key)
		return
	}
	h[key] = slices.Clone(lines)
}
