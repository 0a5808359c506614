package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// maxExpression bounds an expression's text in bytes.
	maxExpression = 8 << 10
	// costLimit bounds an evaluation: about so many steps, also of what is in
	// lists and texts. An ordinary rule costs less than a hundred.
	costLimit = 20_000
)

// An Env says which variables expressions see.
type Env struct{ env *cel.Env }

// Variables of the environments, as expressions name them.
const (
	Claims   = "claims"   // of the token, or of a provider's user: a map
	Provider = "provider" // the name of a login provider
	Scopes   = "scopes"   // of the token: a list
	Issuer   = "issuer"   // of the token
	Subject  = "subject"
	Session  = "session"
	Path     = "path"   // the values of the route's wildcards: a map
	Query    = "query"  // the first value of each parameter that is no credential: a map
	IP       = "ip"     // the client's address: a string
	Origin   = "origin" // the page's, or ""
	Now      = "now"    // a timestamp
	Message  = "msg"    // the message, where it is JSON
	Act      = "action"
	Target   = "target" // what the action is about, or ""
	Size     = "size"   // of the message in bytes
)

// What expressions are about.
var (
	// Logins see a provider's user.
	Logins = newEnv(variable(Claims, claimsType), variable(Provider, cel.StringType))
	// Connections see who connects, and where to.
	Connections = newEnv(connection...)
	// Messages see what a connection does, besides.
	Messages = newEnv(append(connection[:len(connection):len(connection)],
		variable(Message, cel.DynType), variable(Act, cel.StringType), variable(Target, cel.StringType), variable(Size, cel.IntType))...)
)

var (
	claimsType = cel.MapType(cel.StringType, cel.DynType)
	stringMap  = cel.MapType(cel.StringType, cel.StringType)
	connection = []cel.EnvOption{
		variable(Claims, claimsType), variable(Scopes, cel.ListType(cel.StringType)),
		variable(Issuer, cel.StringType), variable(Subject, cel.StringType), variable(Session, cel.StringType),
		variable(Path, stringMap), variable(Query, stringMap), variable(IP, cel.StringType),
		variable(Origin, cel.StringType), variable(Now, cel.TimestampType),
	}
)

func variable(name string, t *cel.Type) cel.EnvOption { return cel.Variable(name, t) }

func newEnv(variables ...cel.EnvOption) *Env {
	e, err := cel.NewEnv(append(variables,
		ext.Strings(), ext.Sets(), cel.OptionalTypes(),
		cel.DefaultUTCTimeZone(true), cel.CrossTypeNumericComparisons(true), cel.ParserRecursionLimit(64),
	)...)
	if err != nil {
		panic(err) // of constants
	}
	return &Env{e}
}

// A Program is a compiled expression. It is safe for concurrent use.
type Program struct {
	text    string
	program cel.Program
}

// Compile compiles an expression that is true or false. The error is an
// ExpressionError.
func (e *Env) Compile(text string) (*Program, error) {
	ast, err := e.check(text)
	if err != nil {
		return nil, err
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, &ExpressionError{Line: 1, Column: 1, Message: fmt.Sprintf("it is %s, not true or false", t)}
	}
	return e.program(text, ast)
}

// CompileValue compiles an expression of any type.
func (e *Env) CompileValue(text string) (*Program, error) {
	ast, err := e.check(text)
	if err != nil {
		return nil, err
	}
	return e.program(text, ast)
}

func (e *Env) check(text string) (*cel.Ast, error) {
	if len(text) > maxExpression {
		return nil, &ExpressionError{Line: 1, Column: 1, Message: fmt.Sprintf("it has more than %d bytes", maxExpression)}
	}
	ast, issues := e.env.Compile(text)
	if issues == nil || issues.Err() == nil {
		return ast, nil
	}
	first := issues.Errors()[0]
	return nil, &ExpressionError{Line: first.Location.Line(), Column: first.Location.Column() + 1, Message: strings.ReplaceAll(first.Message, "\n", " ")}
}

func (e *Env) program(text string, ast *cel.Ast) (*Program, error) {
	p, err := e.env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit))
	if err != nil {
		return nil, &ExpressionError{Line: 1, Column: 1, Message: err.Error()}
	}
	return &Program{text, p}, nil
}

// An ExpressionError says what is wrong with an expression and where in it,
// counted from 1.
type ExpressionError struct {
	Line, Column int
	Message      string
}

func (e *ExpressionError) Error() string {
	if e.Line > 1 {
		return fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Message)
	}
	return fmt.Sprintf("column %d: %s", e.Column, e.Message)
}

// Vars are the values of an evaluation, by the names above. Values are Go's:
// strings, bools, int64, float64, time.Time, []string, []any, map[string]string,
// map[string]any; a func() any is called when its variable is needed first.
type Vars = map[string]any

var errNotBool = errors.New("the expression is neither true nor false")

// Allow reports whether the expression is true. An error is a denial; it repeats
// nothing of the values.
func (p *Program) Allow(v Vars) (bool, error) {
	return p.allow(v)
}

// allow takes Vars, or a cel.Activation.
func (p *Program) allow(v any) (bool, error) {
	out, _, err := p.program.Eval(v)
	if err != nil {
		return false, evaluation(err)
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, errNotBool
	}
	return bool(b), nil
}

// Value is the expression's value as encoding/json would decode it.
func (p *Program) Value(v Vars) (any, error) {
	out, _, err := p.program.Eval(v)
	if err != nil {
		return nil, evaluation(err)
	}
	j, err := out.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, errors.New("the expression's value has no form in JSON")
	}
	return j.(*structpb.Value).AsInterface(), nil
}

func (p *Program) String() string { return p.text }

// evaluation keeps what an operator can use of an error of CEL.
func evaluation(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "cost limit"):
		return errors.New("the expression costs more than it may")
	case strings.HasPrefix(text, "no such key"):
		return errors.New("no such key: guard it with has(), or in")
	case strings.HasPrefix(text, "no such overload"):
		return errors.New("no such overload: a value has another type than the expression expects")
	default:
		return errors.New("the expression cannot be evaluated with these values")
	}
}
