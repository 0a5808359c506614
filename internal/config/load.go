package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// Load reads the configuration in a file, fills in defaults and validates it.
// The error is Problems where the content is wrong. Warnings are returned with
// a configuration that is valid.
func Load(path string) (*Config, Problems, error) {
	return whole(Examine(path))
}

// Examine is Load for whoever looks for more problems: the configuration is what
// could be read beside those there are, and nil where that is nothing.
func Examine(path string) (c *Config, problems, warnings Problems, err error) {
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil, fmt.Errorf("cannot read the configuration: %w (wsbouncer init writes one)", err)
	case err != nil:
		return nil, nil, nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return parse(src, path)
}

// Parse is Load for a configuration already in memory; file names where it
// came from, for relative paths, and may be empty.
func Parse(src []byte, file string) (*Config, Problems, error) {
	return whole(parse(src, file))
}

// whole is nothing where there are problems.
func whole(c *Config, problems, warnings Problems, err error) (*Config, Problems, error) {
	if err == nil && len(problems) > 0 {
		err = problems
	}
	if err != nil {
		return nil, warnings, err
	}
	return c, warnings, nil
}

func parse(src []byte, file string) (c *Config, problems, warnings Problems, err error) {
	c = New()
	c.File = file
	problems, ok := decode(src, c)
	if !ok {
		return nil, problems, nil, nil
	}
	if file != "" {
		dir, err := filepath.Abs(filepath.Dir(file))
		if err != nil {
			return nil, nil, nil, fmt.Errorf("cannot tell which folder %s is in: %w", file, err)
		}
		c.resolve(dir)
	}
	more, warnings := c.validate()
	problems = append(problems, more...)
	problems.Sort()
	warnings.Sort()
	return c, problems, warnings, nil
}

// Overlay reads YAML over a configuration made in the program, without
// validating the whole.
func Overlay(src []byte, c *Config) error {
	if problems, _ := decode(src, c); len(problems) > 0 {
		return problems
	}
	return nil
}

// Complete validates a configuration that was made in the program, and fills
// in what follows from other values.
func (c *Config) Complete() (warnings Problems, err error) {
	problems, warnings := c.validate()
	if len(problems) > 0 {
		return warnings, problems
	}
	return warnings, nil
}

// resolve makes the relative paths in c start at dir.
func (c *Config) resolve(dir string) {
	if c.Data != "" && !filepath.IsAbs(c.Data) {
		c.Data = filepath.Join(dir, c.Data)
	}
	eachFile(reflect.ValueOf(c).Elem(), "", func(_ string, v reflect.Value) {
		if p := v.String(); p != "" && !filepath.IsAbs(p) {
			v.SetString(filepath.Join(dir, p))
		}
	})
}

// eachFile visits every value that names a file.
func eachFile(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachFile(v.Elem(), path, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachFile(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if !f.IsExported() || name == "" || name == "-" {
				continue
			}
			if f.Tag.Get("path") == "file" {
				visit(join(path, name), v.Field(i))
				continue
			}
			eachFile(v.Field(i), join(path, name), visit)
		}
	}
}

// Effective is the configuration in force as YAML. It holds the names of
// files with secrets, and no secret: no key here takes one.
func (c *Config) Effective() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b, yaml.Indent(2), yaml.IndentSequence(true),
		yaml.CustomMarshaler(func(v Duration) ([]byte, error) { return []byte(v.String()), nil }),
		yaml.CustomMarshaler(func(v Size) ([]byte, error) { return []byte(v.String()), nil }),
		yaml.CustomMarshaler(func(v URL) ([]byte, error) { return []byte(v.String()), nil }),
		yaml.CustomMarshaler(func(v Prefix) ([]byte, error) { return []byte(v.String()), nil }),
		yaml.CustomMarshaler(func(v Rate) ([]byte, error) {
			burst := strconv.Itoa(v.Burst)
			if strings.HasSuffix(v.String(), "iB/s") {
				burst = Size(v.Burst).String()
			}
			return fmt.Appendf(nil, "{rate: %s, burst: %s}", v, burst), nil
		}),
	)
	shown := *c
	shown.Origins = c.OriginList()
	if err := enc.Encode(&shown); err != nil {
		return nil, fmt.Errorf("writing the configuration out: %w", err)
	}
	return b.Bytes(), nil
}

// Example is the commented configuration that wsbouncer init writes.
//
//go:embed example.yaml
var Example []byte
