// Package config is the configuration as data: its types, its defaults, how
// it is read from YAML, and what makes it valid or unsafe.
//
// Reading is strict (an unknown or duplicate key is a problem, and so is a key
// whose feature this version lacks) and complete: every problem is reported at
// once, each with line, column and the source line. The package imports
// nothing else of this module; internal/app turns a Config into a program.
package config
