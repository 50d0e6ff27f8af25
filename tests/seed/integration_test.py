import requests
import time

LEADER_URL = "http://localhost:8000"
FOLLOWER_URLS = [f"http://localhost:{8001+i}" for i in range(5)]

def test_basic_replication():
    """Test that writes replicate to followers"""

    # Write to leader
    response = requests.post(f"{LEADER_URL}/put", json={"key": "test1", "value": "hello"})
    assert response.status_code == 200
    data = response.json()
    assert data['ok'] == True
    seq = data['seq']

    # Wait for replication
    time.sleep(1)

    # Check leader
    leader_data = requests.get(f"{LEADER_URL}/get?key=test1").json()
    assert leader_data['value'] == "hello"
    assert leader_data['seq'] == seq

    # Check followers
    for follower_url in FOLLOWER_URLS:
        follower_data = requests.get(f"{follower_url}/get?key=test1").json()
        print(f"{follower_url}: {follower_data}")
        # Not all followers may have it if quorum < 5

def test_consistency():
    """Test race condition - concurrent writes to same key"""

    # Many concurrent writes to same key
    import concurrent.futures

    def write_key(i):
        return requests.post(f"{LEADER_URL}/put", json={"key": "race_key", "value": f"value_{i}"})

    with concurrent.futures.ThreadPoolExecutor(max_workers=10) as executor:
        futures = [executor.submit(write_key, i) for i in range(50)]
        results = [f.result() for f in futures]

    # Wait for all replications
    time.sleep(2)

    # Get final state from all nodes
    leader_dump = requests.get(f"{LEADER_URL}/dump").json()
    leader_value = leader_dump['entries'].get('race_key', {})

    print(f"\nLeader: {leader_value}")

    for follower_url in FOLLOWER_URLS:
        follower_dump = requests.get(f"{follower_url}/dump").json()
        follower_value = follower_dump['entries'].get('race_key', {})
        print(f"{follower_url}: {follower_value}")

        # With seq check: all should match leader's seq
        if follower_value:
            assert follower_value['seq'] == leader_value['seq'], \
                f"Inconsistency detected! Leader seq {leader_value['seq']} != Follower seq {follower_value['seq']}"

if __name__ == "__main__":
    print("Testing basic replication...")
    test_basic_replication()

    print("\nTesting consistency (race condition)...")
    test_consistency()

    print("\nâœ… All tests passed!")
