package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

var answers = bufio.NewScanner(os.Stdin)

// ask waits until the surroundings have done something to the cluster.
func ask(wish string) {
	fmt.Println("do: " + wish)
	answers.Scan()
}

func check(holds bool, what string, values ...any) {
	if !holds {
		panic(fmt.Sprint(what, ": ", values))
	}
}

func callsWork(ctx context.Context, leader *Leader, follower string) {
	client := leader.Client
	err := Use(ctx, client)
	check(err == nil, "the usual calls", err)
	value := []byte("\x00\xff\r\n")
	check(client.Set(ctx, "bytes", value, 0).Err() == nil, "bytes are written")
	found, err := client.Get(ctx, "bytes").Bytes()
	check(err == nil && bytes.Equal(found, value), "bytes", found, err)
	keys, pages := map[string]bool{}, client.Scan(ctx, 0, "p*", 10).Iterator()
	for pages.Next(ctx) {
		keys[pages.Val()] = true
	}
	check(pages.Err() == nil && len(keys) == 100, "a scan", len(keys), pages.Err())
	// Wait is per connection.
	connection := client.Conn()
	defer connection.Close()
	check(connection.Set(ctx, "k", "v", 0).Err() == nil, "written")
	followers, err := connection.Wait(ctx, 3, 10*time.Second).Result()
	check(followers == 3, "WAIT", followers, err)
	err = client.Expire(ctx, "p1", time.Second).Err()
	check(err != nil && strings.Contains(err.Error(), "expiry"), "there is no expiry", err)

	replica := Connect(follower)
	defer replica.Close()
	local, err := replica.Get(ctx, "p1").Result()
	check(local == "1", "a follower reads", local, err)
	check(redis.IsReadOnlyError(replica.Set(ctx, "p1", "2", 0).Err()), "a follower does not write")
}

// lostQuorum: first the outcome of a write is unknown. Once the leader has missed its followers, it accepts none.
func lostQuorum(ctx context.Context, leader *Leader) {
	check(leader.Client.Set(ctx, "n", 0, 0).Err() == nil, "written")
	ask("stop followers")
	err := leader.Run(ctx, false, func(client *redis.Client) error { return client.Incr(ctx, "n").Err() })
	check(errors.Is(err, ErrUnknown), "an unknown outcome", err)
	for {
		err := leader.Client.Set(ctx, "k", "v", 0).Err()
		if redis.IsLoadingError(err) {
			break
		}
		check(redis.HasErrorPrefix(err, "INDETERMINATE"), "no quorum", err)
	}
	ask("continue followers")
	var n string
	err = leader.Run(ctx, true, func(client *redis.Client) (err error) {
		n, err = client.Get(ctx, "n").Result()
		return err
	})
	check(n == "0" || n == "1", "n", n, err)
}

// survives writes while the wishes are granted, and 50 times more. Every acknowledged value stays.
func survives(ctx context.Context, leader *Leader, prefix string, wishes ...string) {
	var granted atomic.Bool
	go func() {
		for _, wish := range wishes {
			ask(wish)
		}
		granted.Store(true)
	}()
	var keys []string
	var expected []any
	for more := 50; more > 0; {
		if granted.Load() {
			more--
		}
		key := fmt.Sprintf("%s%d", prefix, len(keys))
		err := leader.Run(ctx, true, func(client *redis.Client) error { return client.Set(ctx, key, key, 0).Err() })
		check(err == nil, key, err)
		keys, expected = append(keys, key), append(expected, key)
	}
	var values []any
	err := leader.Run(ctx, true, func(client *redis.Client) (err error) {
		values, err = client.MGet(ctx, keys...).Result()
		return err
	})
	check(reflect.DeepEqual(values, expected), "acknowledged values", err)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	addresses, urls := strings.Split(os.Getenv("REDIS"), ","), strings.Split(os.Getenv("HTTP"), ",")
	client, err := FindLeader(ctx, addresses)
	check(err == nil, "a leader", err)
	leader := &Leader{Addresses: addresses, Client: client}
	callsWork(ctx, leader, os.Getenv("REDIS_FOLLOWER"))
	lostQuorum(ctx, leader)
	incr := func(token, words string) {
		answer, err := IncrOnce(ctx, urls, "once", token)
		check(strings.Contains(answer, words), "an increment", answer, err)
	}
	incr("token 1", `"value":"1"`)
	survives(ctx, leader, "killed", "kill leader")
	incr("token 1", "")
	incr("token 2", `"value":"2"`)
	survives(ctx, leader, "back", "start other", "kill leader")
	survives(ctx, leader, "restarted", "restart leader")
}
