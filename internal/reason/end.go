package reason

// Close codes this program sends of its own accord (RFC 6455 §7.4.1 and the
// IANA WebSocket Close Code registry: 3000 Unauthorized, 3003 Forbidden,
// 3008 Timeout).
const (
	CodeGoingAway      = 1001
	CodeProtocolError  = 1002
	CodeInvalidPayload = 1007
	CodePolicy         = 1008
	CodeTooBig         = 1009
	CodeRestart        = 1012
	CodeTryLater       = 1013
	CodeUnauthorized   = 3000
	CodeForbidden      = 3003
	CodeTimeout        = 3008
)

// Advice is what a client does after a connection ended.
type Advice string

// What a client can do after a connection ended.
const (
	// Reauthenticate: ask whether the session still is, refresh once, then log in.
	Reauthenticate Advice = "reauthenticate"
	// Stop: coming back the same way will be refused again.
	Stop Advice = "stop"
	// BackOff: come back later, with growing pauses.
	BackOff Advice = "back_off"
	// Reconnect: come back, with jitter.
	Reconnect Advice = "reconnect"
)

// An End is one way a live connection ends. Values are comparable; Text is the
// close frame's reason, at most 123 bytes (RFC 6455 §5.5), and never holds a
// secret.
type End struct {
	Code uint16
	Text string
	// Cut says that a frame under way is not finished first: the socket is cut
	// where it stands. Revocations cut; expiry and drain do not.
	Cut bool
}

// Every end of this program's own making.
var (
	TokenExpired   = End{Code: CodeUnauthorized, Text: "token_expired"}
	TokenRevoked   = End{Code: CodeUnauthorized, Text: "token_revoked", Cut: true}
	SessionRevoked = End{Code: CodeUnauthorized, Text: "session_revoked", Cut: true}
	SubjectRevoked = End{Code: CodeUnauthorized, Text: "subject_revoked", Cut: true}
	KeyRevoked     = End{Code: CodeUnauthorized, Text: "key_revoked", Cut: true}
	LoggedOut      = End{Code: CodeUnauthorized, Text: "logged_out", Cut: true}
	AuthRequired   = End{Code: CodeUnauthorized, Text: "auth_required"}
	AuthTimeout    = End{Code: CodeTimeout, Text: "auth_timeout"}
	NotAllowed     = End{Code: CodeForbidden, Text: "not_allowed"}
	RateLimited    = End{Code: CodePolicy, Text: "rate_limited"}
	MessageTooBig  = End{Code: CodeTooBig, Text: "message_too_big"}
	ProtocolError  = End{Code: CodeProtocolError, Text: "protocol_error"}
	InvalidPayload = End{Code: CodeInvalidPayload, Text: "invalid_payload"}
	Idle           = End{Code: CodeGoingAway, Text: "idle"}
	Lifetime       = End{Code: CodeGoingAway, Text: "lifetime"}
	ClientGone     = End{Code: CodeGoingAway, Text: "client_gone"}
	Restarting     = End{Code: CodeRestart, Text: "restarting"}
	Overloaded     = End{Code: CodeTryLater, Text: "overloaded"}
	UpstreamGone   = End{Code: CodeTryLater, Text: "upstream_gone"}
	Stale          = End{Code: CodeTryLater, Text: "stale"}
)

// Ends lists every end above, in the order of the documentation.
func Ends() []End {
	return []End{
		TokenExpired, TokenRevoked, SessionRevoked, SubjectRevoked, KeyRevoked, LoggedOut,
		AuthRequired, AuthTimeout, NotAllowed, RateLimited, MessageTooBig, ProtocolError,
		InvalidPayload, Idle, Lifetime, ClientGone, Restarting, Overloaded, UpstreamGone, Stale,
	}
}

// Advice says what a client does after e. It depends on the close code alone,
// because that is all a browser can rely on.
func (e End) Advice() Advice {
	switch e.Code {
	case CodeUnauthorized, CodeTimeout:
		return Reauthenticate
	case CodeForbidden, CodePolicy, CodeTooBig, CodeProtocolError, CodeInvalidPayload:
		return Stop
	case CodeRestart, CodeTryLater:
		return BackOff
	}
	return Reconnect
}

// IsZero reports whether e is no end at all.
func (e End) IsZero() bool { return e.Code == 0 }

func (e End) String() string { return e.Text }
