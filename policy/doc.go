// Package policy decides by rules that an operator writes: expressions in CEL
// (the Common Expression Language, https://cel.dev) over claims and whatever else
// is known, and patterns of targets.
//
// Everything is compiled and type-checked once. An error while an expression is
// evaluated, and one that costs more than it may, is a denial.
package policy
