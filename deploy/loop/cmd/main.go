// Command loop shows what the control loop is worth; see package loop. It is a program of its own,
// since the plots would make every carom process 19 MB larger with their fonts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"carom/deploy/loop"
	"carom/schemas/service"
)

func main() {
	ctx, stop := service.UntilSignal(context.Background())
	err := loop.Command(ctx, os.Args[1:], service.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(service.ExitStatus(err))
}
