// go-redis against a cluster. See ../README.md for what the surroundings do for this program.
package main

// snippet: connect
import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Connect returns a client of one node. It never sends a command twice by itself: INCR could apply twice.
func Connect(address string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: address, MaxRetries: -1, DialerRetries: 1, ReadTimeout: 15 * time.Second})
}

// FindLeader returns a client of the node that leads. The other leader processes answer READONLY or LOADING.
func FindLeader(ctx context.Context, addresses []string) (*redis.Client, error) {
	for {
		var failed error
		for _, address := range addresses {
			client := Connect(address)
			if failed = client.Exists(ctx, "any key").Err(); failed == nil {
				return client, nil
			}
			client.Close()
		}
		select {
		case <-ctx.Done():
			return nil, failed
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// end

// snippet: use
func Use(ctx context.Context, client *redis.Client) error {
	if err := client.Set(ctx, "color", "blue", 0).Err(); err != nil {
		return err
	}
	color, err := client.Get(ctx, "color").Result()
	if err != nil || color != "blue" {
		return fmt.Errorf("color is %q: %w", color, err)
	}
	if err := client.Get(ctx, "no such key").Err(); err != redis.Nil {
		return fmt.Errorf("a value of no key: %w", err)
	}
	visits, err := client.IncrBy(ctx, "visits", 2).Result()
	if err != nil || visits != 2 {
		return fmt.Errorf("%d visits: %w", visits, err)
	}
	// Refused: it has a value.
	err = client.SetArgs(ctx, "color", "red", redis.SetArgs{Mode: "NX"}).Err()
	if err != redis.Nil {
		return fmt.Errorf("it was absent: %w", err)
	}
	if err := client.SetIFEQ(ctx, "color", "green", "blue", 0).Err(); err != nil {
		return err
	}
	values, err := client.MGet(ctx, "color", "visits").Result()
	if err != nil || values[0] != "green" || values[1] != "2" {
		return fmt.Errorf("the values are %v: %w", values, err)
	}
	if err := client.Del(ctx, "color", "visits").Err(); err != nil {
		return err
	}

	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for number := range 100 {
			pipe.Set(ctx, fmt.Sprintf("p%d", number), number, 0)
		}
		return nil
	})
	return err
}

// end

// snippet: errors

// ErrUnknown: the write was applied, or will be, or never.
var ErrUnknown = errors.New("it is not known whether the command was applied")

// Leader runs commands at the node that leads.
type Leader struct {
	Addresses []string
	Client    *redis.Client
}

// Run repeats the command where nothing was applied. Where that is not known, only if it is repeatable:
// it reads, or applying it twice does no harm.
func (leader *Leader) Run(ctx context.Context, repeatable bool, command func(*redis.Client) error) error {
	for {
		if leader.Client != nil {
			err := command(leader.Client)
			var network net.Error
			switch {
			case err == nil, err == redis.Nil:
				return err
			case redis.IsLoadingError(err), redis.IsReadOnlyError(err): // Nothing was applied.
			case redis.HasErrorPrefix(err, "INDETERMINATE"), errors.As(err, &network), errors.Is(err, io.EOF):
				if !repeatable {
					return fmt.Errorf("%w: %w", ErrUnknown, err)
				}
			default:
				return err
			}
			leader.Client.Close()
		}
		client, err := FindLeader(ctx, leader.Addresses)
		if err != nil {
			return err
		}
		leader.Client = client
	}
}

// end

// snippet: http

// IncrOnce adds 1 exactly once, however often it is sent: the nodes know the token.
func IncrOnce(ctx context.Context, urls []string, key, token string) (string, error) {
	body := fmt.Sprintf(`{"key":%q,"by":1}`, key)
	for {
		for _, url := range urls {
			request, err := http.NewRequestWithContext(ctx, "POST", url+"/incr", strings.NewReader(body))
			if err != nil {
				return "", err
			}
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Idempotency-Key", token)
			answer, err := http.DefaultClient.Do(request) // It follows a standby to the leader.
			if err != nil {
				continue
			}
			text, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			switch answer.StatusCode {
			case 200:
				return string(text), err
			case 500, 503: // Unknown; not applied.
			default:
				return "", fmt.Errorf("%s: %s", answer.Status, text)
			}
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// end
