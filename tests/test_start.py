"""The host starts and the harness offers what it promises."""

import torch


def test_tiny_sd15_samples(host, tiny_checkpoint):
    tiny_checkpoint("sd15")
    prompt = {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.ckpt"}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["6", 0],
                "latent_image": ["5", 0],
                "seed": 7,
                "steps": 2,
                "cfg": 5.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}},
    }
    run = host.run(prompt)
    (images,) = run.values["8"]
    assert images.shape == (2, 64, 64, 3) and images.isfinite().all()
    assert len(run.outputs["9"]["images"]) == 2
    assert any(name == "progress" for name, _ in run.events)
    model, clip, vae = host.load_checkpoint("sd15.ckpt")
    assert model.model.model_config.__class__.__name__ == "SD15"
    assert images.std() > 0.01
    assert not torch.equal(images[0], images[1])


def test_server_answers(server, tiny_checkpoint):
    tiny_checkpoint("sd15")
    client = server.client()
    assert "KSampler" in client.object_info()
    assert "IMPORT FAILED" not in server.log
