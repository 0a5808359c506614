package httpx

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
)

var (
	bodyTooLarge = &Problem{
		Status: http.StatusRequestEntityTooLarge, Code: "body_too_large",
		Detail: "The request's body is larger than is allowed here.",
	}
	bodyUnreadable = &Problem{
		Status: http.StatusBadRequest, Code: "body_unreadable",
		Detail: "The request's body ended early or could not be read.",
	}
)

// ReadBody reads the whole body, at most max bytes, and wants it to be of the
// given media type ("application/json"; "" for any), in UTF-8 and unencoded. A
// charset in Content-Type other than utf-8 is refused, and so are two
// Content-Type lines: a simple cross-site form must not pass for JSON. Errors
// are *Problem: 413 body_too_large, 415 unsupported_media_type, 400
// body_unreadable.
func ReadBody(w http.ResponseWriter, r *http.Request, max int64, contentType string) ([]byte, error) {
	if contentType != "" && !isMedia(r.Header["Content-Type"], contentType) {
		return nil, &Problem{
			Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type",
			Detail: fmt.Sprintf("Send the body as %s.", contentType),
		}
	}
	for _, enc := range r.Header["Content-Encoding"] {
		if !strings.EqualFold(strings.TrimSpace(enc), "identity") {
			return nil, &Problem{
				Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type",
				Detail: "Send the body without a Content-Encoding.",
				Header: http.Header{"Accept-Encoding": {"identity"}},
			}
		}
	}
	if r.ContentLength > max && r.ContentLength > lingerAbove {
		// Not read at all. Closed here, so that net/http lets the client read the
		// answer before it closes the connection under what is still sent.
		_ = r.Body.Close()
		w.Header().Set("Connection", "close")
		return nil, bodyTooLarge
	}
	b, err := io.ReadAll(http.MaxBytesReader(innermost(w), r.Body, max))
	if err != nil {
		var tooBig *http.MaxBytesError
		if errors.As(err, &tooBig) {
			return nil, bodyTooLarge
		}
		return nil, bodyUnreadable
	}
	return b, nil
}

// lingerAbove is the length above which net/http does not try to read what is
// left of a body that was closed (its maxPostHandlerReadBytes).
const lingerAbove = 256 << 10

// innermost is net/http's own writer, which must see that the limit was hit: then
// it answers at once, without waiting for the rest, and here too lets the client
// read the answer first.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

func isMedia(lines []string, want string) bool {
	if len(lines) != 1 {
		return false
	}
	got, params, err := mime.ParseMediaType(lines[0])
	if err != nil || got != want {
		return false
	}
	charset, ok := params["charset"]
	return !ok || strings.EqualFold(charset, "utf-8")
}
