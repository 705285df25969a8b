package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// tomlResolver answers flags from a decoded TOML file.
type tomlResolver struct{ values map[string]any }

func tomlKey(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// Resolve implements kong.Resolver.
func (t *tomlResolver) Resolve(_ *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	// kong asks a resolver before the environment; the file is the weaker one.
	for _, name := range flag.Envs {
		if value, set := os.LookupEnv(name); set && value != "" {
			return nil, nil
		}
	}
	key := tomlKey(flag.Name)
	if parent != nil && parent.Command != nil {
		if table, ok := t.values[parent.Command.Name].(map[string]any); ok {
			if v, ok := table[key]; ok {
				return plain(v), nil
			}
		}
	}
	if v, ok := t.values[key]; ok {
		if _, isTable := v.(map[string]any); !isTable {
			return plain(v), nil
		}
	}
	return nil, nil
}

// plain turns a decoded value into what kong's mappers read.
func plain(v any) any {
	if list, ok := v.([]any); ok {
		parts := make([]string, len(list))
		for i, item := range list {
			parts[i] = fmt.Sprint(item)
		}
		return strings.Join(parts, ",")
	}
	return v
}

// Validate implements kong.Resolver: every key must be some flag's.
func (t *tomlResolver) Validate(app *kong.Application) error {
	known := map[string]bool{}
	tables := map[string]map[string]bool{}
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		own := map[string]bool{}
		for _, f := range n.Flags {
			own[tomlKey(f.Name)] = true
			known[tomlKey(f.Name)] = true
		}
		tables[n.Name] = own
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(app.Node)
	for key, v := range t.values {
		table, isTable := v.(map[string]any)
		switch {
		case isTable && tables[key] == nil:
			return fmt.Errorf("configuration: no command is called %q", key)
		case isTable:
			for inner := range table {
				if !tables[key][inner] {
					return fmt.Errorf("configuration: %q has no setting %q", key, inner)
				}
			}
		case !known[key]:
			return fmt.Errorf("configuration: no setting is called %q", key)
		}
	}
	return nil
}
