package cli

import (
	"context"

	"github.com/isthmus-mesh/isthmus/cli/outlook"
)

// foresee asks one cluster what the loss of others would do, and prints it.
func (a *app) foresee(ctx context.Context, lost []string, users string) error {
	ctx, cancel := a.bound(ctx)
	defer cancel()
	targets, err := a.targets(ctx, false)
	if err != nil {
		return err
	}
	answer, err := targets[0].client.Forecast(ctx, lost, users)
	if err != nil {
		return err
	}
	if a.output == "table" {
		err = outlook.Print(a.Out, answer, a.colour())
	} else {
		err = a.printValue(answer)
	}
	if err == nil && len(answer.Findings) > 0 {
		return errFindings
	}
	return err
}
