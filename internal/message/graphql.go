package message

import (
	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// graphqlReader reads graphql-transport-ws
// (https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md).
type graphqlReader struct {
	o      jsonscan.Options
	client bool
	unit   [1]Unit
	values [gqlMembers][]byte
}

// What is looked at, in the order of graphqlPointers.
const (
	gqlType = iota
	gqlID
	gqlPayload
	gqlQuery
	gqlOperationName
	gqlMembers
)

var graphqlPointers = func() *jsonscan.Pointers {
	p, err := pointers("/type", "/id", "/payload", "/payload/query", "/payload/operationName")
	if err != nil {
		panic(err)
	}
	return p
}()

func newGraphQL(o Options) (client, upstream Reader, err error) {
	return &graphqlReader{o: jsonOptions(o), client: true}, &graphqlReader{o: jsonOptions(o)}, nil
}

func (r *graphqlReader) Binary() bool { return false }

func (r *graphqlReader) Read(binary bool, data []byte) ([]Unit, error) {
	if binary {
		return nil, errBinary
	}
	v := &r.values
	if err := graphqlPointers.Lookup(data, r.o, v[:]); err != nil {
		return nil, notJSON(err)
	}
	kind, err := text(v[gqlType])
	if err != nil {
		return nil, invalid("the type is not a string")
	}
	r.unit[0] = Unit{Raw: data, JSON: data}
	u := &r.unit[0]
	switch kind {
	case "ping", "pong":
		return r.unit[:], nil
	case "connection_init":
		if r.client {
			return r.unit[:], nil
		}
	case "connection_ack":
		if !r.client {
			return r.unit[:], nil
		}
	case "complete":
		if isID(v[gqlID]) {
			return r.unit[:], nil
		}
		return nil, errGraphQLID
	case "next", "error":
		if r.client {
			break
		}
		if !isID(v[gqlID]) {
			return nil, errGraphQLID
		}
		u.Actions = []Action{{Name: kind}}
		return r.unit[:], nil
	case "subscribe":
		if r.client {
			return r.unit[:], r.subscribe(u, v)
		}
	}
	return nil, invalid("a message of a type that is not due")
}

var errGraphQLID = invalid("the id is no string, or an empty one")

func isID(raw []byte) bool { return len(raw) > 2 && raw[0] == '"' }

func (r *graphqlReader) subscribe(u *Unit, v *[gqlMembers][]byte) error {
	if !isID(v[gqlID]) {
		return errGraphQLID
	}
	query, err := text(v[gqlQuery])
	if err != nil {
		// A hash of a document that the server has stored says nothing to us.
		return invalid("there is no document in query")
	}
	name := ""
	if n := v[gqlOperationName]; n != nil && string(n) != "null" {
		if name, err = text(n); err != nil {
			return invalid("operationName is not a string")
		}
	}
	if u.Actions, err = graphqlActions(query, name); err != nil {
		return err
	}
	id := v[gqlID]
	u.denial = func(code string) []byte {
		b := append([]byte(`{"id":`), id...)
		return append(b, `,"type":"error","payload":[{"message":"Not allowed","extensions":{"code":"`+code+`"}}]}`...)
	}
	return nil
}
