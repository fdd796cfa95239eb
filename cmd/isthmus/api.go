package main

import (
	"context"
	"log/slog"

	"github.com/isthmus-mesh/isthmus/control/plane"
)

// serveWithAPI runs a control plane with its door beside it.
func serveWithAPI(ctx context.Context, _ plane.Config, p *plane.Plane, _ *slog.Logger) error {
	return p.Run(ctx)
}
