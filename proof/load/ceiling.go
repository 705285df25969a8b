package load

import (
	"context"
	"fmt"
)

// withCeiling runs a measurement and, if wanted, the same again on a bare relay.
func withCeiling(ctx context.Context, cfg Config, measure func(context.Context, Config) (Result, error)) (Result, error) {
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	res, err := measure(ctx, cfg)
	if err != nil || !cfg.Ceiling {
		return res, err
	}
	c, err := measure(ctx, cfg.onRelay())
	if err != nil {
		return Result{}, fmt.Errorf("measure the ceiling: %w", err)
	}
	res.under(c)
	return res, nil
}

// onRelay is the configuration of the same measurement on a relay.
func (c Config) onRelay() Config {
	c.Target, c.HTTPClient, c.relay, c.Server, c.From, c.Nodes = "", nil, true, nil, "", 0
	return c
}

// Ceiling measures the relay alone, with the generator of a workload: send,
// deliver or fanout.
func Ceiling(ctx context.Context, cfg Config, like string) (Result, error) {
	measure, ok := map[string]func(context.Context, Config) (Result, error){"send": send, "deliver": deliver, "fanout": fanOut}[like]
	if !ok {
		return Result{}, fmt.Errorf("no ceiling is like %q", like)
	}
	if err := cfg.setDefaults(); err != nil {
		return Result{}, err
	}
	res, err := measure(ctx, cfg.onRelay())
	// Goals are for messengers.
	res.Name, res.Details.Goals, res.Details.MeetsGoals = "ceiling", nil, nil
	return res, err
}
