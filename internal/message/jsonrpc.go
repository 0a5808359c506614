package message

import (
	"bytes"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

const (
	// maxBatch bounds the calls of a batch.
	maxBatch = 128
	// Response is the name of a JSON-RPC response, which has no method. No
	// method may have it.
	Response = "rpc.response"
	// jsonrpcDenied is of the range that the specification leaves to servers.
	jsonrpcDenied = "-32003"
)

// jsonrpcReader reads JSON-RPC 2.0 (https://www.jsonrpc.org/specification).
type jsonrpcReader struct {
	o         jsonscan.Options
	at        *jsonscan.Pointers
	hasTarget bool
	unit      [1]Unit
}

// The members of a call that are looked at, in the order of their pointers.
const (
	rpcVersion = iota
	rpcMethod
	rpcID
	rpcParams
	rpcResult
	rpcError
	rpcTarget
)

func newJSONRPC(o Options) (client, upstream Reader, err error) {
	if client, err = newJSONRPCReader(o); err == nil {
		upstream, err = newJSONRPCReader(o)
	}
	return client, upstream, err
}

func newJSONRPCReader(o Options) (*jsonrpcReader, error) {
	r := &jsonrpcReader{o: jsonOptions(o), hasTarget: o.Target != ""}
	texts := []string{"/jsonrpc", "/method", "/id", "/params", "/result", "/error"}
	if r.hasTarget {
		texts = append(texts, o.Target)
	}
	var err error
	r.at, err = pointers(texts...)
	return r, err
}

func (r *jsonrpcReader) Binary() bool { return false }

func (r *jsonrpcReader) Read(binary bool, data []byte) ([]Unit, error) {
	if binary {
		return nil, errBinary
	}
	u := Unit{Raw: data, JSON: data}
	first := bytes.TrimLeft(data, " \t\r\n")
	if len(first) > 0 && first[0] == '[' {
		var ids [][]byte
		calls := 0
		err := jsonscan.Array(data, r.o, func(call []byte) error {
			if calls++; calls > maxBatch {
				return errTooManyCalls
			}
			a, id, err := r.call(call)
			if err != nil {
				return err
			}
			if id != nil {
				ids = append(ids, id)
			}
			u.Actions = append(u.Actions, a)
			return nil
		})
		switch {
		case err != nil:
			return nil, notJSON(err)
		case calls == 0:
			return nil, invalid("an empty batch")
		case len(ids) > 0:
			u.denial = func(code string) []byte {
				reply := []byte{'['}
				for i, id := range ids {
					if i > 0 {
						reply = append(reply, ',')
					}
					reply = appendRPCError(reply, id, code)
				}
				return append(reply, ']')
			}
		}
	} else {
		a, id, err := r.call(data)
		if err != nil {
			return nil, err
		}
		u.Actions = []Action{a}
		if id != nil {
			u.denial = func(code string) []byte { return appendRPCError(nil, id, code) }
		}
	}
	r.unit[0] = u
	return r.unit[:], nil
}

var errTooManyCalls = invalid("more calls in a batch than are allowed")

// call reads one call or response. id is raw and nil where no answer is due.
func (r *jsonrpcReader) call(b []byte) (a Action, id []byte, err error) {
	var room [rpcTarget + 1][]byte
	v := room[:r.at.Len()]
	if err := r.at.Lookup(b, r.o, v); err != nil {
		return a, nil, notJSON(err)
	}
	if string(v[rpcVersion]) != `"2.0"` {
		return a, nil, invalid("it is not JSON-RPC 2.0")
	}
	if id = v[rpcID]; id != nil && !rpcIdentifier(id) {
		return a, nil, invalid("the id is neither a string, a number nor null")
	}
	if v[rpcMethod] == nil {
		if id == nil || (v[rpcResult] == nil) == (v[rpcError] == nil) || v[rpcParams] != nil {
			return a, nil, invalid("it is neither a call nor a response")
		}
		return Action{Name: Response}, nil, nil
	}
	if a.Name, err = text(v[rpcMethod]); err != nil || a.Name == Response {
		return a, nil, invalid("the method is not a string, or one that is reserved")
	}
	if v[rpcResult] != nil || v[rpcError] != nil {
		return a, nil, invalid("it is both a call and a response")
	}
	if p := v[rpcParams]; p != nil && p[0] != '{' && p[0] != '[' {
		return a, nil, invalid("the params are neither an object nor an array")
	}
	if r.hasTarget && v[rpcTarget] != nil {
		if a.Target, err = scalar(v[rpcTarget]); err != nil {
			return a, nil, invalid("the target is neither a string nor a whole number")
		}
	}
	return a, id, nil
}

// rpcIdentifier: section 4, "a String, Number, or NULL value".
func rpcIdentifier(id []byte) bool {
	return id[0] == '"' || id[0] == '-' || id[0] >= '0' && id[0] <= '9' || string(id) == "null"
}

func appendRPCError(b, id []byte, code string) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	return append(b, `,"error":{"code":`+jsonrpcDenied+`,"message":"Not allowed","data":{"code":"`+code+`"}}}`...)
}
